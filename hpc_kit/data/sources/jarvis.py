"""JARVIS-DFT 3D: crystals with up to 29 properties at OptB88vdW, TBmBJ and other levels.

Choudhary et al., npj Comput. Mater. 6, 173 (2020), doi 10.1038/s41524-020-00440-1; data doi
10.6084/m9.figshare.6815699. Read from the JSON file of a snapshot (plain or as the .zip it is published as), or
through jarvis-tools, which downloads it. Units are those of the ALIGNN paper's tables (npj Comput. Mater. 7, 185).
"""

import importlib.metadata
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ijson
import numpy as np

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.archives import Bounds, open_member
from hpc_kit.data.sources.atoms import atomic_numbers
from hpc_kit.data.sources.tables import number
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.spec.errors import InputError

OPTIONS = {
    "snapshot": "which data set jarvis-tools fetches; default dft_3d_2021, which ALIGNN and the leaderboard use",
    "splits": "a JARVIS-Leaderboard benchmark file, such as dft_3d_slme.json.zip",
    "max_unpacked_gb": archives.OPTIONS["max_unpacked_gb"],
}
# JARVIS's own key: (unit, description)
PROPERTIES = {
    "formation_energy_peratom": ("eV/atom", "formation energy"),
    "optb88vdw_bandgap": ("eV", "band gap (OptB88vdW)"),
    "optb88vdw_total_energy": ("eV/atom", "total energy"),
    "ehull": ("eV/atom", "energy above hull"),
    "mbj_bandgap": ("eV", "band gap (TBmBJ)"),
    "bulk_modulus_kv": ("GPa", "bulk modulus Kv"),
    "shear_modulus_gv": ("GPa", "shear modulus Gv"),
    "magmom_oszicar": ("uB", "magnetic moment"),
    "slme": ("%", "SLME"),
    "spillage": ("", "spin-orbit spillage"),
    "kpoint_length_unit": ("Angstrom", "k-point length"),
    "encut": ("eV", "plane-wave cutoff"),
    "epsx": ("", "dielectric x (OptB88vdW)"),
    "epsy": ("", "dielectric y (OptB88vdW)"),
    "epsz": ("", "dielectric z (OptB88vdW)"),
    "mepsx": ("", "dielectric x (TBmBJ)"),
    "mepsy": ("", "dielectric y (TBmBJ)"),
    "mepsz": ("", "dielectric z (TBmBJ)"),
    "dfpt_piezo_max_dielectric": ("", "dielectric (DFPT)"),
    "dfpt_piezo_max_dij": ("C/N", "max piezoelectric dij"),
    "dfpt_piezo_max_eij": ("C/m2", "max piezoelectric eij"),
    "exfoliation_energy": ("meV/atom", "exfoliation energy"),
    "max_efg": ("1e21 V/m2", "max electric field gradient"),
    "avg_elec_mass": ("me", "average electron mass"),
    "avg_hole_mass": ("me", "average hole mass"),
    "n-Seebeck": ("uV/K", "n-type Seebeck"),
    "n-powerfact": ("uW/(m K2)", "n-type power factor"),
    "p-Seebeck": ("uV/K", "p-type Seebeck"),
    "p-powerfact": ("uW/(m K2)", "p-type power factor"),
}


class Jarvis:
    """A snapshot of JARVIS-DFT. `targets` are those of the 29 keys that its first record has."""

    name = "jarvis_dft_3d"

    def __init__(
        self,
        path: Path | None,
        snapshot: str,
        keys: list[str],
        splits: dict,
        origin: dict[str, Any],
        limits: Bounds = Bounds(),
    ):
        self.path, self.snapshot, self.splits, self.origin, self.limits = path, snapshot, splits, origin, limits
        self.targets = {key: Target(unit=PROPERTIES[key][0], description=PROPERTIES[key][1]) for key in keys}

    def records(self) -> Iterator[tuple[str, Any]]:
        entries = entries_of(self.path, self.limits) if self.path else _download(self.snapshot)
        for entry in entries:
            kept = {key: entry.get(key) for key in ("atoms", *self.targets)}
            yield str(entry.get("jid")), kept

    def convert(self, id: str, raw: Any) -> Structure:
        targets = {key: number(raw[key], key) for key in self.targets}
        try:
            cell = np.array(raw["atoms"]["lattice_mat"], dtype=float).reshape(3, 3)
            pos = np.array(raw["atoms"]["coords"], dtype=float).reshape(-1, 3)
            z = atomic_numbers([str(symbol).strip() for symbol in raw["atoms"]["elements"]])
            cartesian = raw["atoms"]["cartesian"]
        except (KeyError, TypeError, ValueError) as error:
            raise RejectedError(f"atoms cannot be read: {type(error).__name__}: {error}") from None
        if len(z) != len(pos):
            raise RejectedError(f"{len(z)} elements for {len(pos)} positions")
        # jarvis-tools places atoms by a cell rounded so; ALIGNN's neighbours at equal distances depend on it.
        pos = pos if cartesian else pos @ cell.round(5)
        return Structure(id=id, z=z, pos=pos, targets=targets, cell=cell, pbc=np.ones(3, dtype=bool))


def open_source(path: Path | None, options: dict[str, str]) -> Jarvis:
    """Open the snapshot at `path`, or through jarvis-tools where there is none."""
    if path is not None and "snapshot" in options:
        raise InputError("option snapshot is for jarvis-tools; with a path, the file is the snapshot")
    snapshot = options.get("snapshot", "dft_3d_2021")
    limits = archives.bounds(options)
    if path is None:
        try:
            version = importlib.metadata.version("jarvis-tools")
        except importlib.metadata.PackageNotFoundError:
            raise InputError(
                "source 'jarvis' needs a path: the JSON or zip file of dft_3d_2021 (doi 10.6084/m9.figshare.6815699);"
                " or install jarvis-tools, which downloads it"
            ) from None
        keys, place = list(PROPERTIES), f"jarvis-tools {version}, {snapshot}"
    else:
        opt.existing(path, "jarvis", "the JSON file of a dft_3d snapshot, plain or zipped", "file")
        first = next(entries_of(path, limits), None)
        if first is None:
            raise InputError(f"{path}: holds no records")
        keys, place = [key for key in PROPERTIES if key in first], path.name
        if not keys or "jid" not in first or "atoms" not in first:
            raise InputError(
                f"{path}: its records hold {', '.join(first)}; a dft_3d snapshot has jid, atoms, properties"
            )
    splits_file = opt.file(options, "splits", path.parent if path else None)
    splits: dict[str, dict[str, list[str]]] = {}
    chosen = {}
    if splits_file:
        splits["leaderboard"], repeated = read_splits(splits_file, limits)
        chosen["splits"] = f"{splits_file.name}; {repeated} ids that it repeats stand in the later part only"
    origin = {
        "dataset": "JARVIS-DFT 3D",
        "doi": "10.1038/s41524-020-00440-1",
        "licence": "as stated at doi 10.6084/m9.figshare.6815699",
    }
    return Jarvis(path, snapshot, keys, splits, origin | {"from": place} | chosen, limits)


def read_splits(path: Path, limits: Bounds = Bounds()) -> tuple[dict[str, list[str]], int]:
    """Read a JARVIS-Leaderboard benchmark file, {"train": {id: value}, "val": ..., "test": ...}, as lists of ids.

    12 of the published dft_3d files name one to five crystals in more than one part. Such an id stays in the
    later part alone, so that the test part is the published one and nothing of it is trained on. Returns the split
    and how many ids that took out. A benchmark without validation gives an empty list. Raises InputError.
    """
    try:
        with open_json(path, limits) as file:
            parts = json.load(file)
        train, val, test = ({str(id): None for id in parts.get(part, {})} for part in ("train", "val", "test"))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a JARVIS-Leaderboard benchmark file: {error}") from None
    if not test:
        raise InputError(f"{path}: not a JARVIS-Leaderboard benchmark file: it has no 'test' part")
    splits = {
        "train": [id for id in train if id not in val and id not in test],
        "val": [id for id in val if id not in test],
        "test": list(test),
    }
    return splits, len(train) + len(val) - len(splits["train"]) - len(splits["val"])


@contextmanager
def open_json(path: Path, limits: Bounds = Bounds()) -> Iterator[IO[bytes]]:
    """Open a JSON file, or the only JSON file within a zip."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise InputError(f"{path}: holds {len(names)} JSON files; one is needed")
        with open_member(archive, names[0], path, limits) as file:
            yield file


def entries_of(path: Path, limits: Bounds = Bounds()) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON list, one in memory at a time."""
    try:
        with open_json(path, limits) as file:
            for entry in ijson.items(file, "item", use_float=True):
                if not isinstance(entry, dict):
                    raise InputError(f"{path}: its list holds {type(entry).__name__}, not records")
                yield entry
    except (ijson.JSONError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: not JSON that can be read to its end (NaN is no JSON): {text}") from None


def _download(snapshot: str) -> list[dict[str, Any]]:
    from jarvis.db.figshare import data

    try:
        return data(dataset=snapshot)
    except Exception as error:
        raise InputError(
            f"jarvis-tools could not fetch {snapshot}: {type(error).__name__}: {error}; fetch its file where there is"
            " a network and name it by its path"
        ) from None
