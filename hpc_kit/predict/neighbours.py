"""The graph of one structure whose atoms move a little at a time: a neighbour list with a skin."""

import numpy as np

from hpc_kit.data.graphs import Edges, build_graph, nearest, radius_graph
from hpc_kit.data.shards import OVERLAP
from hpc_kit.data.structures import RejectedError, completed
from hpc_kit.spec.data import Graph


class Neighbours:
    """Gives the edges that `build_graph` gives, from a list of pairs up to the cutoff and a skin (Angstrom), which is
    made anew when atoms have moved, or the cell has changed, so far that a pair outside of it may be inside the
    cutoff; `built` counts how often. The rule alignn, which looks further where atoms are sparse, has no such list.
    """

    def __init__(self, graph: Graph, skin: float):
        self._graph, self._skin, self.built = graph, skin, 0
        self._z: np.ndarray | None = None

    def edges(self, z: np.ndarray, pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Edges:
        """Return src, dst, shift, sorted as build_graph sorts them. pos [n, 3], cell [3, 3] Angstrom, float64.

        Raises RejectedError like build_graph, and where atoms lie on top of each other.
        """
        if self._graph.rule == "alignn":
            self.built += 1
            return build_graph(pos, cell, pbc, self._graph)
        cell = completed(cell, pbc)
        if not self._holds(z, pos, cell, pbc):
            self._list = radius_graph(pos, cell, pbc, self._graph.cutoff + self._skin)
            self._z, self._pos, self._cell, self._pbc = z.copy(), pos.copy(), cell.copy(), np.array(pbc)
            self.built += 1
        src, dst, shift = self._list
        # In this order of operations an edge and its reverse have the same distance to the last bit.
        distance = np.sqrt(np.square(pos[src] - pos[dst] + shift @ cell).sum(axis=1))
        if len(distance) and distance.min() < OVERLAP:
            first = int(distance.argmin())
            raise RejectedError(f"atoms {dst[first]} and {src[first]} are {distance[first]:.3g} Angstrom apart")
        near = distance < self._graph.cutoff
        edges = src[near], dst[near], shift[near]
        if self._graph.max_neighbors is None:
            return edges
        return nearest(edges, distance[near], len(pos), self._graph.max_neighbors)

    def _holds(self, z: np.ndarray, pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Tell whether no pair that is not in the list can be within the cutoff.

        A change of the cell takes all atoms along and shortens no vector by more than the least stretch of that
        change; what atoms have moved beyond it shortens one by no more than twice the largest of those moves.
        """
        if self._z is None or not np.array_equal(z, self._z) or not np.array_equal(pbc, self._pbc):
            return False
        change = np.linalg.solve(self._cell, cell)
        moved = np.sqrt(np.square(pos - self._pos @ change).sum(axis=1).max())
        least = np.linalg.svd(change, compute_uv=False).min()
        return bool(least * (self._graph.cutoff + self._skin) - 2 * moved >= self._graph.cutoff)
