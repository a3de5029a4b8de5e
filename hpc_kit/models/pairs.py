"""Pairs of neighbours: an edge and its reverse have one distance, and what depends on it alone is computed once.

Not for: sums over them (filtered.py, edge_sums.py).
"""

from typing import NamedTuple

import torch

from hpc_kit.data.batches import GraphBatch
from hpc_kit.spec.data import Graph


class Pairs(NamedTuple):
    """Neighbours for models in which an edge and its reverse are the same but for their ends.

    edge [P]: numbers of edges in the batch; src, dst [P]: their atoms. `both`: each stands for its reverse too, and
    P is half of E; otherwise P is E.
    """

    edge: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    both: bool


def has_reverses(graph: Graph) -> bool:
    """Whether this rule gives every edge its reverse (docs/graphs.md): only a cut to `max_neighbors` does not."""
    return graph.max_neighbors is None or graph.rule == "alignn"


def pairs_of(batch: GraphBatch, reverses: bool) -> Pairs:
    """Return every pair of neighbours once if `reverses` promises that each edge has its reverse, else all edges.

    Of two reverses the one with src < dst is taken; of an atom's edges to its own images the one whose first
    shift that is not 0 is positive. Nothing waits for the device. Raises RuntimeError where the promise is broken.
    """
    src, dst = batch.src, batch.dst
    if not reverses:
        return Pairs(torch.arange(len(src), device=src.device), src, dst, False)
    first, image = src < dst, src.new_zeros(())
    if batch.shift is not None:
        # As digits of one number, whose sign is that of the first shift that is not 0.
        shift = batch.shift.long()
        image = (shift[:, 0] * 256 + shift[:, 1]) * 256 + shift[:, 2]
        first = first | ((src == dst) & (image > 0))
    _check_reverses(src, dst, image, first)
    half = len(src) // 2
    place = torch.where(first, first.cumsum(0) - 1, half).clamp(max=half)
    edge = src.new_zeros(half + 1).scatter_(0, place, torch.arange(len(src), device=src.device))[:half]
    return Pairs(edge, src.index_select(0, edge), dst.index_select(0, edge), True)


def _check_reverses(src: torch.Tensor, dst: torch.Tensor, image: torch.Tensor, first: torch.Tensor) -> None:
    """Compare the edges in `first` with the others turned round, by the sum of 64-bit hashes."""
    low, high, image = torch.minimum(src, dst), torch.maximum(src, dst), torch.where(first, image, -image)
    mixed = ((low * 0x1E3779B97F4A7C15 + high) * 0x3F58476D1CE4E5B9 + image) * 0x14D049BB133111EB
    mixed = (mixed ^ (mixed >> 31)) * 0x3F58476D1CE4E5B9
    mixed ^= mixed >> 29
    balance = torch.where(first, mixed, -mixed).sum() | (2 * first.sum() - len(src))
    torch._assert_async(balance == 0, "an edge lacks its reverse, which the rule of data.graph promises")


def distances(batch: GraphBatch, pairs: Pairs) -> torch.Tensor:
    """Return [P] Angstrom."""
    vectors = batch.edge_vectors()
    return (vectors.index_select(0, pairs.edge) if pairs.both else vectors).norm(dim=-1)
