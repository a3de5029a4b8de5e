"""One molecule or crystal with its targets: what sources yield and shards store."""

from dataclasses import dataclass, field, replace

import numpy as np
from ase.geometry import complete_cell

# float32 keeps 4e-6 Angstrom of a position this far from the origin (Angstrom).
FAR = 100.0


class RejectedError(Exception):
    """One structure cannot be used; the message says why. It ends that structure, never a preparation."""


@dataclass
class Structure:
    """Atoms of one graph.

    id: unique name within its source. z: [n] uint8 atomic numbers. pos: [n, 3] Angstrom.
    cell: [3, 3] Angstrom, rows are lattice vectors, zeros where not periodic. pbc: [3] bool.
    targets: name -> value in the unit the data set states (missing = NaN).
    forces: [n, 3] eV/Angstrom and smiles where the source has them. left_out: what else it has, and is not stored.
    """

    id: str
    z: np.ndarray
    pos: np.ndarray
    targets: dict[str, float]
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    forces: np.ndarray | None = None
    smiles: str = ""
    left_out: tuple[str, ...] = ()


def completed(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return `cell` with unit vectors, normal to the others, in place of those that are not periodic."""
    rows, cell = np.asarray(pbc, dtype=bool)[:, None], np.asarray(cell, dtype=np.float64)
    return np.where(rows, cell, complete_cell(np.where(rows, cell, 0.0)))


def near_origin(structure: Structure) -> Structure:
    """Return `structure` where float32 can hold it: as it is, or moved where an atom is beyond FAR.

    It is centred on the origin along the directions that are not periodic; each atom is wrapped into the cell along
    those that are.
    """
    pos = np.asarray(structure.pos, dtype=np.float64)
    if not len(pos) or np.abs(pos).max() <= FAR:
        return structure
    pbc, cell = np.asarray(structure.pbc, dtype=bool), completed(structure.cell, structure.pbc)
    places = np.linalg.solve(cell.T, pos.T).T
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    return replace(structure, pos=(places - np.where(pbc, np.floor(places), middle)) @ cell)
