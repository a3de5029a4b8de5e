"""One molecule or crystal with its targets: what sources yield and shards store."""

from dataclasses import dataclass, field

import numpy as np


class RejectedError(Exception):
    """One structure cannot be used; the message says why. It ends that structure, never a preparation."""


@dataclass
class Structure:
    """Atoms of one graph.

    id: unique name within its source. z: [n] uint8 atomic numbers. pos: [n, 3] Angstrom.
    cell: [3, 3] Angstrom, rows are lattice vectors, zeros where not periodic. pbc: [3] bool.
    targets: name -> value in the unit the data set states (missing = NaN).
    forces: [n, 3] eV/Angstrom and smiles where the source has them.
    """

    id: str
    z: np.ndarray
    pos: np.ndarray
    targets: dict[str, float]
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    forces: np.ndarray | None = None
    smiles: str = ""
