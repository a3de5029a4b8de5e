"""MD17 and rMD17: frames of the dynamics of one small molecule, with the energy and the forces of each.

MD17: Chmiela et al., Sci. Adv. 3, e1603015 (2017), doi 10.1126/sciadv.1603015; npz with z, R, E, F.
rMD17: Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), doi 10.1088/2632-2153/abba6f,
CC0; npz with nuclear_charges, coords, energies, forces, and old_indices, the frames' places in MD17.
Both publish kcal/mol and kcal/(mol Angstrom). Extended xyz files do not say their unit, so the user must.
"""

import hashlib
import itertools
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.archives import Bounds
from hpc_kit.data.sources.frames import energy_and_forces, parse_frame, text_frames
from hpc_kit.data.sources.tables import number
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.data.units import KCAL_PER_MOL
from hpc_kit.spec.errors import InputError

OPTIONS = {
    "molecule": "name in the ids, such as ethanol; default: from the file's name",
    "units": "kcal/mol or eV; npz files default to kcal/mol, extended xyz files have no default",
    "max_unpacked_gb": archives.OPTIONS["max_unpacked_gb"],
}
_UNITS = {"kcal/mol": KCAL_PER_MOL, "eV": 1.0}
_SETS = {
    "MD17": {"keys": ("z", "R", "E", "F"), "doi": "10.1126/sciadv.1603015", "licence": "not stated"},
    "rMD17": {
        "keys": ("nuclear_charges", "coords", "energies", "forces"),
        "doi": "10.1088/2632-2153/abba6f",
        "licence": "CC0",
    },
}


class MD17:
    """One trajectory. Targets: `energy` (eV, total); forces in eV/Angstrom are on each structure."""

    name = "md17"
    targets = {"energy": Target(unit="eV", description="total energy of the frame")}
    splits: dict[str, dict[str, list[str]]] = {}

    def __init__(self, path: Path, molecule: str, factor: float, keys: tuple[str, ...], origin: dict[str, Any]):
        self.path, self.molecule, self.factor, self.keys, self.origin = path, molecule, factor, keys, origin

    def records(self) -> Iterator[tuple[str, Any]]:
        frames = npz_frames(self.path, self.keys) if self.keys else text_frames(self.path)
        for index, frame in enumerate(frames):
            yield f"{self.molecule}_{index:06d}", frame

    def convert(self, id: str, raw: Any) -> Structure:
        if self.keys:
            z, pos, energy, forces = raw
        else:
            atoms = parse_frame(_name_energy(raw))
            energy, forces = energy_and_forces(atoms)
            if energy is None or forces is None:
                raise RejectedError("frame without an energy or without forces")
            z, pos = atoms.numbers, atoms.positions
        return Structure(
            id=id,
            z=np.asarray(z, dtype=np.uint8),
            pos=np.asarray(pos, dtype=float),
            targets={"energy": number(energy, "energy") * self.factor},
            forces=np.asarray(forces, dtype=float) * self.factor,
        )


def open_source(path: Path | None, options: dict[str, str]) -> MD17:
    """Open the trajectory at `path`."""
    path = opt.existing(path, "md17", "an .npz file of MD17 or rMD17, or an extended xyz file", "file")
    stem = re.sub(r"^r?md17_|_dft$", "", path.stem)
    molecule = options.get("molecule", stem)
    if not re.fullmatch(r"[\w.+-]+", molecule):
        raise InputError(f"option molecule={molecule}: letters, digits, '_', '-', '+' and '.' only")
    origin: dict[str, Any] = {"dataset": "extended xyz", "from": path.name, "molecule": molecule}
    keys: tuple[str, ...] = ()
    if path.suffix == ".npz":
        arrays = npz_shapes(path, archives.bounds(options))
        name = next((name for name, entry in _SETS.items() if set(entry["keys"]) <= set(arrays)), None)
        if name is None:
            raise InputError(
                f"{path}: holds {', '.join(arrays) or 'nothing'}; MD17 has z, R, E, F and rMD17 nuclear_charges,"
                " coords, energies, forces"
            )
        keys = tuple(_SETS[name]["keys"])
        _check_shapes(path, [arrays[key] for key in keys])
        origin |= {"dataset": name, "doi": _SETS[name]["doi"], "licence": _SETS[name]["licence"]}
        if "old_indices" in arrays:
            digest = hashlib.sha256(b"".join(value.tobytes() for value in _stream(path, "old_indices")))
            origin["old_indices"] = f"frame i of the ids is frame old_indices[i] of MD17; sha256 {digest.hexdigest()}"
    else:
        if next(iter(text_frames(path)), None) is None:
            raise InputError(f"{path}: empty")
        if "units" not in options:
            raise InputError(f"{path}: an xyz file does not say its unit: give units=kcal/mol or units=eV")
    units = opt.choice(options, "units", list(_UNITS), "kcal/mol")
    return MD17(path, molecule, _UNITS[units], keys, origin | {"units": units})


def _name_energy(frame: str) -> str:
    """Turn a comment line that is one number, as in MD17's first xyz files, into an extended xyz comment.

    The number is the energy, and three columns after the positions are the forces.
    """
    count, comment, atoms = frame.split("\n", 2)
    try:
        energy = float(comment)
    except ValueError:
        return frame
    forces = ":forces:R:3" if len(atoms.split("\n", 1)[0].split()) == 7 else ""
    return f"{count}\nProperties=species:S:1:pos:R:3{forces} energy={energy!r}\n{atoms}"


def npz_shapes(path: Path, limits: Bounds = Bounds()) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an npz file's arrays from their headers. Raises InputError where it is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            limits.refuse(path, sum(info.file_size for info in archive.infolist()))
        return {name: _header(path, name)[0] for name in names}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an npz file: {error}") from None


def npz_frames(path: Path, keys: tuple[str, ...]) -> Iterator[tuple]:
    """Yield (z [n], positions [n, 3], energy, forces [n, 3]) of each frame, one frame in memory at a time."""
    try:
        z = np.array(list(_stream(path, keys[0])))
        for pos, energy, forces in zip(*(_stream(path, key) for key in keys[1:]), strict=True):
            yield z, pos, float(energy.reshape(-1)[0]), forces
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: cannot be read to its end: {error}") from None


def _header(path: Path, key: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        return _read_header(file)


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _stream(path: Path, key: str) -> Iterator[np.ndarray]:
    """Yield the entries of an array of an npz file along its first axis without holding the array."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        shape, columns_first, dtype = _read_header(file)
        if columns_first or dtype.hasobject:
            raise InputError(f"{path}: {key}: stored in Fortran order or as objects; save it with numpy.savez")
        size = math.prod(shape[1:]) * dtype.itemsize
        for index in itertools.count():
            if index == shape[0]:
                return
            content = file.read(size)
            if len(content) < size:
                raise InputError(f"{path}: {key}: ends after {index} of {shape[0]} frames")
            yield np.frombuffer(content, dtype).reshape(shape[1:])


def _check_shapes(path: Path, shapes: list[tuple[int, ...]]) -> None:
    z, pos, energy, forces = shapes
    if len(z) != 1 or len(pos) != 3 or pos[1:] != (z[0], 3) or forces != pos or not energy or energy[0] != pos[0]:
        raise InputError(f"{path}: shapes z {z}, positions {pos}, energies {energy}, forces {forces} do not fit")
    if not pos[0] or math.prod(energy) != pos[0]:
        raise InputError(f"{path}: {pos[0]} frames and {math.prod(energy)} energies; one a frame is needed")
