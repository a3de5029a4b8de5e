"""The line graph: bonds as nodes, pairs of bonds that meet as edges, and the angle of each pair.

Derived for every batch, not stored: it is an order of magnitude larger than the graph. Not for: which atoms are
bonded (graphs.py).
"""

import torch


def line_graph(src: torch.Tensor, dst: torch.Tensor, atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair every edge a -> b with every edge b -> c, its own reverse included, itself excluded.

    src, dst: [E] int64, in any order; atoms: their number, over all graphs where src and dst hold several.
    Returns first, second [T] int64: dst[first] == src[second], sorted by second, then first. The pairs are those
    of DGL's `line_graph(backtracking=True)` (src/array/cpu/coo_line_graph.cc), which skips an edge beside itself:
    that happens where an atom is bonded to its own image.
    """
    by_dst = torch.argsort(dst, stable=True)
    in_degree = torch.bincount(dst, minlength=atoms)
    start = in_degree.cumsum(0) - in_degree
    pairs = in_degree[src]
    total = int(pairs.sum())
    second = torch.repeat_interleave(pairs, output_size=total)
    offset = start[src] - (pairs.cumsum(0) - pairs)
    first = by_dst[torch.arange(total, device=src.device) + offset[second]]
    if bool((src == dst).any()):
        different = first != second
        first, second = first[different], second[different]
    return first, second


def angle_cosines(vectors: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return [T]: the cosine of the angle at b between a and c, for a -> b = first and b -> c = second.

    vectors: [E, 3] of the edges, all from dst to src or all from src to dst. With r from src to dst it is
    -r[first] . r[second] / (|r[first]| |r[second]|), cut to [-1, 1], as `compute_bond_cosines` of ALIGNN 2025.4.1
    (alignn/graphs.py): 1 for an edge and its reverse, -1 for a straight line.
    """
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    return -(unit.index_select(0, first) * unit.index_select(0, second)).sum(1).clamp(-1.0, 1.0)
