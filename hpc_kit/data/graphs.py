"""Neighbour lists: which pairs of atoms a graph connects.

Not for: line graphs or features, which are derived where they are used.
"""

import numpy as np
import vesin


def radius_graph(
    pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connect every pair of atoms (periodic images included) closer than `cutoff`.

    pos: [n, 3] Angstrom; cell: [3, 3] Angstrom; pbc: [3] bool; cutoff: Angstrom.
    Returns src [E] and dst [E] (int64, sorted by dst, then src, then shift) and shift [E, 3] (int64): the
    vector of an edge is pos[src] + shift @ cell - pos[dst]. Both directions of a pair are present, an atom is
    not its own neighbour except through a periodic image.
    """
    neighbours = vesin.NeighborList(cutoff=cutoff, full_list=True)
    dst, src, shift = neighbours.compute(
        points=np.ascontiguousarray(pos, dtype=np.float64),
        box=np.ascontiguousarray(cell, dtype=np.float64),
        periodic=np.ascontiguousarray(pbc, dtype=bool),
        quantities="ijS",
    )
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], src, dst))
    return src[order].astype(np.int64), dst[order].astype(np.int64), shift[order].astype(np.int64)


def build_graph(pos, cell, pbc, settings):
    return radius_graph(pos, cell, pbc, settings.cutoff)
