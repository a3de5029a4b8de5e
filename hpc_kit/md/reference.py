"""Reference frames of a molecule: of a leg with GFN2-xTB, or of files and shard sets; and a model's errors on them.
The node side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from hpc_kit.data.manifest import FILE_NAME, read_manifest
from hpc_kit.data.shards import read_shard_set
from hpc_kit.data.sources.frames import energy_and_forces
from hpc_kit.md.forces import ModelForces
from hpc_kit.md.molecules import bonds_by, bonds_of, order_like
from hpc_kit.md.systems import Systems
from hpc_kit.md.trajectory import read_frames
from hpc_kit.spec.errors import InputError

MOST = 200  # frames on which energies and forces are compared
_AT_ONCE = 50


@dataclass
class Reference:
    """Frames of one molecule: pos [F, n, 3] Angstrom, replica [F]; energy [F] eV and forces [F, n, 3] where known."""

    pos: np.ndarray
    replica: np.ndarray
    energy: np.ndarray | None = None
    forces: np.ndarray | None = None

    @classmethod
    def of_frames(cls, frames: np.ndarray) -> "Reference":
        return cls(frames["pos"], frames["replica"], frames["energy"], frames["forces"])


def read_reference(path: Path, start: Atoms, name: str) -> Reference:
    """Read a shard set, or a file of frames, and bring its atoms into the order of `start`.

    Raises InputError where it holds another molecule, several, or nothing.
    """
    if (path / FILE_NAME).exists():
        arrays = read_shard_set(path, read_manifest(path))
        counts = np.diff(arrays.atom_ptr)
        if len(counts) and set(counts) == {len(start)}:
            shape = (len(counts), len(start))
            z, pos = arrays.z.reshape(shape), arrays.pos.reshape(*shape, 3).astype(float)
            forces = None if arrays.forces is None else arrays.forces.reshape(*shape, 3).astype(float)
            found = Reference(pos, np.zeros(len(pos), int), arrays.targets.get("energy"), forces)
            return _in_order(path, z, found, start, name)
        if len(counts):
            raise _other(path, start, name)
        raise InputError(f"{path}: holds no frames")
    frames = list(read_frames(path))
    if not frames:
        raise InputError(f"{path}: holds no frames")
    if any(len(atoms) != len(start) for atoms in frames):
        raise _other(path, start, name)
    said = [energy_and_forces(atoms) for atoms in frames]
    known = all(energy is not None and forces is not None for energy, forces in said)
    found = Reference(
        np.stack([atoms.positions for atoms in frames]),
        np.array([int(atoms.info.get("replica", 0)) for atoms in frames]),
        np.array([float(energy) for energy, _ in said]) if known else None,
        np.stack([forces for _, forces in said]) if known else None,
    )
    return _in_order(path, np.stack([atoms.numbers for atoms in frames]), found, start, name)


def _in_order(path: Path, z: np.ndarray, found: Reference, start: Atoms, name: str) -> Reference:
    """Return `found` with its atoms, z [F, n], in the order of those in `start` that are bonded alike. Bonds are
    those of the mean distances of some frames."""
    if not (z == z[0]).all():
        raise InputError(f"{path}: its frames are not all of one molecule, with its atoms in one order")
    if start.pbc.any():
        order = np.arange(len(start)) if np.array_equal(z[0], start.numbers) else None
    else:
        some = found.pos[:_AT_ONCE]
        distance = np.linalg.norm(some[:, :, None] - some[:, None], axis=3).mean(axis=0)
        order = order_like(start.numbers, bonds_of(start), z[0], bonds_by(z[0], distance))
    if order is None:
        raise _other(path, start, name)
    forces = None if found.forces is None else found.forces[:, order]
    return Reference(found.pos[:, order], found.replica, found.energy, forces)


def _other(path: Path, start: Atoms, name: str) -> InputError:
    return InputError(
        f"{path}: is of another molecule: its frames are not {name} ({start.get_chemical_formula()}), or"
        " their atoms are bonded otherwise"
    )


def errors_on(forces: ModelForces, reference: Reference, start: Atoms) -> dict[str, Any] | None:
    """Return how wrong a model is on at most MOST of the frames, evenly drawn: `energy_mae` meV/atom after a constant
    is taken away (levels of theory differ in it), `force_mae`, `force_rmse` meV/Angstrom; None without truth."""
    if reference.energy is None or reference.forces is None:
        return None
    count = len(reference.pos)
    chosen = np.unique(np.linspace(0, count - 1, min(MOST, count)).astype(int))
    energies, pushes = [], []
    for part in np.array_split(chosen, -(-len(chosen) // _AT_ONCE)):
        systems = Systems.of([start], len(part))
        systems.pos = reference.pos[part].reshape(-1, 3)
        energy, push = forces(systems)
        energies.append(energy)
        pushes.append(push.reshape(len(part), -1, 3))
    off = np.concatenate(energies) - reference.energy[chosen]
    wrong = np.concatenate(pushes) - reference.forces[chosen]
    return {
        "frames": len(chosen),
        "energy_mae": float(np.abs(off - off.mean()).mean() * 1000 / len(start)),
        "force_mae": float(np.abs(wrong).mean() * 1000),
        "force_rmse": float(np.sqrt(np.square(wrong).mean()) * 1000),
    }
