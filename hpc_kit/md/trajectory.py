"""Frames on disk: appended as fixed records while a run goes on, so that a restart cuts off what came too late, and
written as extxyz or HDF5 at its end. The node side."""

import os
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from hpc_kit.files import atomic_path
from hpc_kit.md.molecules import check_geometry
from hpc_kit.md.systems import Systems
from hpc_kit.spec.errors import InputError, WorkError

TASK = "hpc_kit task"  # under this name a trajectory says which task it is of


def record(atoms: int) -> np.dtype:
    """Return the type of one frame of one replica: step; energy, kinetic eV; pos Angstrom; momenta; forces
    eV/Angstrom."""
    vectors = ("<f8", (atoms, 3))
    fields = [("replica", "<i8"), ("step", "<i8"), ("energy", "<f8"), ("kinetic", "<f8")]
    return np.dtype([*fields, ("pos", *vectors), ("momenta", *vectors), ("forces", *vectors)])


def frames_of(systems: Systems, energies: np.ndarray, forces: np.ndarray, step: int) -> dict[int, np.ndarray]:
    """Return molecule -> the records of its replicas. energies [S] eV, forces [N, 3] eV/Angstrom."""
    kinetic, found = systems.kinetic(), {}
    for molecule in np.unique(systems.molecule).tolist():
        rows = np.flatnonzero(systems.molecule == molecule)
        frames = np.zeros(len(rows), record(int(systems.counts[rows[0]])))
        atoms = np.concatenate([np.arange(systems.ptr[i], systems.ptr[i + 1]) for i in rows])
        frames["replica"], frames["step"] = systems.replica[rows], step
        frames["energy"], frames["kinetic"] = energies[rows], kinetic[rows]
        for name, values in (("pos", systems.pos), ("momenta", systems.momenta), ("forces", forces)):
            frames[name] = values[atoms].reshape(len(rows), -1, 3)
        found[molecule] = frames
    return found


class Frames:
    """The records of one molecule in a file; `size` is how long the file is."""

    def __init__(self, path: Path, atoms: int):
        self.path, self._record = path, record(atoms)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, frames: np.ndarray) -> None:
        """Raises WorkError where the disk does not take it."""
        try:
            with self.path.open("ab") as file:
                file.write(frames.tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WorkError(f"{self.path}: not written: {error.strerror}") from None

    def cut(self, size: int) -> None:
        """Take away what was appended after the file was `size` long. Raises InputError where it is shorter."""
        if self.size < size:
            raise InputError(
                f"{self.path}: holds {self.size} bytes where its state says {size}: it is of another run, or damaged."
                " Remove the folder parts/ to run the task from its start"
            )
        if self.path.exists():
            os.truncate(self.path, size)

    def read(self) -> np.ndarray:
        """Return [F] records."""
        return np.fromfile(self.path, self._record) if self.path.exists() else np.zeros(0, self._record)


def write_trajectory(path: Path, frames: np.ndarray, start: Atoms, timestep_fs: float, task: str) -> None:
    """Write frames as the ending of `path` says, in one piece: .extxyz for ASE, with energies and forces, or .h5."""
    with atomic_path(path) as temporary:
        if path.suffix == ".h5":
            _write_h5(temporary, frames, start, timestep_fs, task)
        else:
            with temporary.open("w") as file:
                for atoms in as_atoms(frames, start, timestep_fs, task):
                    ase.io.write(file, atoms, format="extxyz")


def as_atoms(frames: np.ndarray, start: Atoms, timestep_fs: float, task: str) -> Iterator[Atoms]:
    """Yield frames as ASE has them, energy and forces where it looks for them."""
    for frame in frames:
        atoms = Atoms(start.numbers, frame["pos"], cell=start.cell, pbc=start.pbc, momenta=frame["momenta"])
        atoms.calc = SinglePointCalculator(atoms, energy=float(frame["energy"]), forces=frame["forces"])
        atoms.info |= {
            "replica": int(frame["replica"]),
            "time_fs": round(float(frame["step"] * timestep_fs), 6),
            TASK.replace(" ", "_"): task,
        }
        yield atoms


def _write_h5(path: Path, frames: np.ndarray, start: Atoms, timestep_fs: float, task: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs[TASK] = task
        file.attrs["units"] = "pos Angstrom, velocities Angstrom/fs, energies eV, forces eV/Angstrom, time fs"
        file["z"], file["cell"], file["pbc"] = start.numbers.astype(np.uint8), np.array(start.cell), start.pbc
        file["time"] = frames["step"] * timestep_fs
        for name in ("replica", "energy", "kinetic"):
            file[name] = frames[name]
        file.create_dataset("pos", data=frames["pos"], chunks=True, compression="gzip", shuffle=True)
        file.create_dataset("forces", data=frames["forces"], chunks=True, compression="gzip", shuffle=True)
        velocities = frames["momenta"] / start.get_masses()[:, None] * units.fs
        file.create_dataset("velocities", data=velocities, chunks=True, compression="gzip", shuffle=True)


def last_frames(path: Path, molecule: Atoms, name: str) -> list[Atoms]:
    """Return the last frame of each replica in a trajectory that a task wrote (.extxyz or .h5), with momenta.

    Raises InputError where the file is no such trajectory, is one of another molecule, or where a last frame has
    atoms that overlap, or positions or velocities that are not finite.
    """
    frames = list(read_frames(path))
    if not frames:
        raise InputError(f"{path}: holds no frames")
    other = next((a for a in frames if not np.array_equal(a.numbers, molecule.numbers)), None)
    if other is not None:
        raise InputError(
            f"{path}: is of another molecule: its frames are {other.get_chemical_formula()} with atoms in"
            f" another order or number than {name}, {molecule.get_chemical_formula()}"
        )
    last: dict[int, Atoms] = {}
    for atoms in frames:
        last[atoms.info.get("replica", 0)] = atoms
    for replica, atoms in last.items():
        source = f"{path}: the last frame of replica {replica}"
        check_geometry(atoms, source)
        if not np.isfinite(atoms.get_momenta()).all():
            raise InputError(f"{source}: holds velocities that are not finite")
    return [last[replica] for replica in sorted(last)]


def read_frames(path: Path) -> Iterator[Atoms]:
    """Yield the frames of a file that ASE reads, or of a .h5 trajectory of ours. Raises InputError."""
    if path.suffix != ".h5":
        try:
            yield from ase.io.iread(path, ":")
        except Exception as error:  # ASE's readers raise what comes
            raise InputError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
        return
    import h5py

    try:
        with h5py.File(path) as file:
            z, cell, pbc = file["z"][:], file["cell"][:], file["pbc"][:]
            masses = Atoms(z).get_masses()[:, None]
            columns = [file[n][:] for n in ("replica", "energy", "pos", "velocities", "forces")]
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: is no trajectory of hpc_kit: {error}") from None
    for replica, energy, pos, velocities, forces in zip(*columns, strict=True):
        atoms = Atoms(z, pos, cell=cell, pbc=pbc, momenta=velocities / units.fs * masses)
        atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces)
        atoms.info["replica"] = int(replica)
        yield atoms
