"""Which bonds are one bond seen from its two ends, and which angles are one angle seen from its two sides.

What depends on a length or an angle alone is computed once for all that share it. Not for: which atoms are bonded
(graphs.py), which bonds meet (line_graph.py).
"""

from dataclasses import dataclass

import torch


@dataclass
class Twins:
    """n things of which some are known to be equal: U distinct ones.

    rows [U]: the first of each kind; kind [n]: which of the U each is; repeats [U]: how many there are of each.
    """

    rows: torch.Tensor
    kind: torch.Tensor
    repeats: torch.Tensor


def reverse_edges(src: torch.Tensor, dst: torch.Tensor, shift: torch.Tensor | None, atoms: int) -> torch.Tensor:
    """Return [E] int64: the edge that leads back from dst to src through the same cells, -1 where there is none.

    src, dst [E] int64; shift [E, 3] int8 or None; atoms: fewer than 2**19. Of several equal edges the k-th belongs
    to the k-th of their reverses, so that the reverse of a reverse is the edge itself.
    """
    steps = torch.zeros(len(src), 3, dtype=torch.int64, device=src.device) if shift is None else shift.long()
    digits = torch.tensor([2**16, 2**8, 1], device=src.device)
    key = ((src * atoms + dst) << 24) + ((128 + steps) * digits).sum(1)
    back_key = ((dst * atoms + src) << 24) + ((128 - steps) * digits).sum(1)
    in_order, order = torch.sort(key, stable=True)
    which = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    which -= torch.searchsorted(in_order, key)
    place = torch.searchsorted(in_order, back_key) + which
    inside = place < len(order)
    place = place * inside
    if not len(order):
        return order
    return torch.where(inside & (in_order[place] == back_key), order[place], -1)


def equal_lengths(reverse: torch.Tensor) -> Twins:
    """Join every edge with its reverse (reverse_edges)."""
    own = torch.arange(len(reverse), device=reverse.device)
    return _joined(torch.where(reverse < 0, own, torch.minimum(own, reverse)), len(reverse))


def equal_angles(
    src: torch.Tensor, dst: torch.Tensor, atoms: int, reverse: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> tuple[Twins, torch.Tensor]:
    """Join every pair a -> b -> c with c -> b -> a, and all pairs a -> b -> a, whose angle is zero.

    src, dst: edges sorted by dst; first, second [T]: line_graph(src, dst, atoms). Returns the twins and [U] bool:
    which are of the zero angle.
    """
    # The place of a pair among all of the line graph, an edge beside itself included: line_graph is sorted by it.
    in_degree = torch.bincount(dst, minlength=atoms)
    pairs = in_degree[src]
    offset = pairs.cumsum(0) - pairs - (in_degree.cumsum(0) - in_degree)[src]
    place = offset[second] + first
    back_first, back_second = reverse[second], reverse[first]
    mirrored = offset[back_second.clamp(min=0)] + back_first
    key = torch.where((back_first >= 0) & (back_second >= 0), torch.minimum(place, mirrored), place) + 1
    zero = back_second == second
    twins = _joined(key.masked_fill(zero, 0), int(pairs.sum()) + 1)
    return twins, zero[twins.rows]


def _joined(key: torch.Tensor, size: int) -> Twins:
    """Number the different keys [n] (below `size`) in their order."""
    present = torch.zeros(size, dtype=torch.bool, device=key.device).index_fill_(0, key, True)
    kind = (present.cumsum(0) - 1)[key]
    count = int(present.sum())
    rows = torch.full((count,), len(key), device=key.device)
    rows.scatter_reduce_(0, kind, torch.arange(len(key), device=key.device), "amin")
    return Twins(rows, kind, torch.bincount(kind, minlength=count))
