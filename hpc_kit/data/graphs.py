"""Neighbour lists: which pairs of atoms a graph connects. docs/graphs.md states the rules at length.

Not for: line graphs (line_graph.py) or features, which are derived where they are used.

Everywhere: pos [n, 3] Angstrom; cell [3, 3] Angstrom, rows are lattice vectors (anything where not periodic); pbc [3]
bool. A graph is src [E], dst [E] and shift [E, 3], all int64, sorted by dst, then src, then shift; the vector of an
edge is pos[src] + shift @ cell - pos[dst].
"""

import functools
import inspect

import numpy as np

from hpc_kit.data.structures import RejectedError, completed
from hpc_kit.spec.data import Graph

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]

# Neighbours of an atom whose distances follow each other by no more than this (Angstrom) are equally far: well above
# what float32 positions lose to rounding, far below any difference that matters.
TIE = 1e-4
# ALIGNN's software takes no pair this close (Angstrom) for neighbours: `bond_tol` of jarvis-tools.
ALIGNN_CLOSEST = 0.15
# vesin sorts atoms into boxes as wide as the cutoff; to fill 100,000 boxes of 0.2 Angstrom takes it 20 ms.
_COARSE = 2.0

# An edge as one integer that sorts like it: dst in the highest bits, then src, then 8 bits for each shift.
_SRC, _DST, _MOST_ATOMS = 24, 44, 2**19


def build_graph(pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, settings: Graph) -> Edges:
    """Connect atoms by `settings.rule`; a structure in which nothing is near enough gives a graph without edges.

    The rule alignn decides ties between neighbours by the last bit, as its authors' software does: give it
    the source's float64 positions. Raises RejectedError where the structure cannot be used.
    """
    if settings.rule == "alignn":
        return alignn_graph(pos, cell, pbc, settings.cutoff, settings.max_neighbors)
    edges = radius_graph(pos, cell, pbc, settings.cutoff)
    if settings.max_neighbors is None:
        return edges
    return nearest(edges, _distances(pos, cell, edges), len(pos), settings.max_neighbors)


@functools.cache
def _has_threads() -> bool:
    import vesin

    return "n_threads" in inspect.signature(vesin.NeighborList).parameters


def radius_graph(pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Edges:
    """Connect every pair of atoms (periodic images included) closer than `cutoff` (Angstrom), in both directions.

    An atom is not its own neighbour except through a periodic image. Raises RejectedError for positions that are
    not finite, a periodic cell without volume, a shift beyond int8, or 2**19 atoms and more.
    """
    import vesin  # not at the top: beside the old torch of DGL only versions before 0.5 load, which have one thread

    # One thread: structures are many and small, and processes share the cores.
    neighbours = vesin.NeighborList(cutoff=cutoff, full_list=True, **({"n_threads": 1} if _has_threads() else {}))
    try:
        pairs, shift = neighbours.compute(
            points=np.ascontiguousarray(pos, dtype=np.float64),
            box=np.ascontiguousarray(completed(cell, pbc)),
            periodic=np.ascontiguousarray(pbc, dtype=bool),
            quantities="PS",
            copy=False,  # views of memory that lives as long as `neighbours`
        )
    except RuntimeError as error:
        raise RejectedError(f"no neighbour list: {error}") from None
    return _sorted(pairs[:, 1], pairs[:, 0], shift, len(pos))


def closest(pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, within: float) -> tuple[int, int, float] | None:
    """Return the closest pair of atoms (or of an atom and an image) and their distance in Angstrom, where it is less
    than `within`; None otherwise. Raises RejectedError like radius_graph."""
    edges = radius_graph(pos, cell, pbc, max(within, _COARSE))
    distance = _distances(pos, cell, edges)
    if not len(distance) or distance.min() >= within:
        return None
    first = int(distance.argmin())
    return int(edges[1][first]), int(edges[0][first]), float(distance[first])


def nearest(edges: Edges, distance: np.ndarray, atoms: int, count: int) -> Edges:
    """Keep of each dst the `count` nearest src; equally far ones (TIE) come in the order of src, then shift.

    distance: [E] Angstrom. The edges stay sorted. An edge may lose its reverse.
    """
    src, dst, shift = edges
    order = np.lexsort((distance, dst))
    new_shell = (np.diff(distance[order], prepend=-np.inf) > TIE) | (np.diff(dst[order], prepend=-1) > 0)
    order = order[np.lexsort((order, np.cumsum(new_shell)))]
    in_degree = np.bincount(dst, minlength=atoms)
    rank = np.arange(len(dst)) - np.repeat(np.cumsum(in_degree) - in_degree, in_degree)
    keep = np.sort(order[rank < count])
    return src[keep], dst[keep], shift[keep]


def alignn_graph(pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, count: int) -> Edges:
    """Connect atoms as ALIGNN's software does (Choudhary & DeCost 2021, doi 10.1038/s41524-021-00650-1).

    Each atom picks all neighbours within the distance of its `count`-th, `cutoff` (Angstrom) growing until every atom
    has that many; what either end picked becomes an edge in both directions. An edge between an atom and its own
    image is there twice if both directions were picked. From nearest_neighbor_edges, canonize_edge and
    build_undirected_edgedata of alignn 2025.4.1 (alignn/graphs.py) and Atoms.get_all_neighbors of jarvis-tools
    2024.10.30. Raises RejectedError like radius_graph, and unless all three directions are periodic.
    """
    if not np.all(pbc):
        raise RejectedError("rule alignn needs a crystal, periodic in all three directions; use rule radius")
    pos, cell = np.asarray(pos, dtype=np.float64), np.asarray(cell, dtype=np.float64)
    while True:
        src, dst, shift, distance = _alignn_neighbours(pos, cell, pbc, cutoff)
        in_degree = np.bincount(dst, minlength=len(pos))
        if in_degree.min() >= count:
            break
        longest = np.linalg.norm(cell, axis=1).max().round(6)  # jarvis-tools rounds lengths
        cutoff = longest if cutoff < longest else 2 * cutoff
    by_distance = distance[np.lexsort((distance, dst))]
    picked = distance <= by_distance[np.cumsum(in_degree) - in_degree + count - 1][dst]
    src, dst, shift = src[picked], dst[picked], shift[picked]
    swap = src > dst
    shift[swap] *= -1
    low, high = np.minimum(src, dst), np.maximum(src, dst)
    _, once = np.unique(_keys(low, high, shift), return_index=True)
    low, high, shift = low[once], high[once], shift[once]
    both = np.concatenate([low, high]), np.concatenate([high, low]), np.concatenate([shift, -shift])
    return _sorted(*both, len(pos))


def _alignn_neighbours(pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple[np.ndarray, ...]:
    """Return src, dst, shift, distance of all pairs up to and including `cutoff`."""
    src, dst, shift = radius_graph(pos, cell, pbc, cutoff * (1 + 1e-9))
    distance = _distances(pos, cell, (src, dst, shift))
    near = (distance <= cutoff) & (distance > ALIGNN_CLOSEST)
    return src[near], dst[near], shift[near], distance[near]


def _distances(pos: np.ndarray, cell: np.ndarray, edges: Edges) -> np.ndarray:
    """Return [E] Angstrom: image first, then the neighbour's place, then the difference, in jarvis-tools' order of
    operations, on which the rule alignn depends."""
    src, dst, shift = edges
    pos, cell = np.asarray(pos, dtype=np.float64), np.asarray(cell, dtype=np.float64)
    return np.sqrt(np.sum((shift @ cell + pos[src] - pos[dst]) ** 2, axis=1))


def _keys(src: np.ndarray, dst: np.ndarray, shift: np.ndarray) -> np.ndarray:
    keys = (shift + 128) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int64)
    keys += src.astype(np.int64) << _SRC
    keys += dst.astype(np.int64) << _DST
    return keys


def _sorted(src: np.ndarray, dst: np.ndarray, shift: np.ndarray, atoms: int) -> Edges:
    """Return the edges sorted by dst, src, shift: several times faster as integers than by five keys."""
    if atoms >= _MOST_ATOMS:
        raise RejectedError(f"{atoms} atoms: a graph holds fewer than {_MOST_ATOMS}")
    if len(shift) and (shift.min() < -128 or shift.max() > 127):
        far = shift[np.abs(shift).max(axis=1).argmax()].tolist()
        raise RejectedError(f"an edge reaches {far} cells away, beyond -128 to 127: wrap the atoms into the cell")
    keys = np.sort(_keys(src, dst, shift)).astype("<i8", copy=False)
    shift = keys.view(np.uint8).reshape(-1, 8)[:, 2::-1].astype(np.int64)
    shift -= 128
    return (keys >> _SRC) & (2 ** (_DST - _SRC) - 1), keys >> _DST, shift
