"""Which graphs make up which batch of an epoch, and which part of each batch a rank takes. Pure functions.

The plan depends on (seed, epoch) and the data, never on how many ranks there are, so that a run may be resumed
on another number of them, at any batch: (epoch, batch number) is all the state there is.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """A batch takes graphs in order until one more would exceed a limit; one that exceeds it alone is a batch."""

    graphs: int
    atoms: int | None = None
    edges: int | None = None


@dataclass(frozen=True)
class Window:
    """A stretch of an epoch whose graphs are in memory together: shard numbers (None: all), and its batches."""

    shards: list[int] | None
    batches: list[np.ndarray]


def epoch_order(index: np.ndarray, seed: int, epoch: int, *more: int) -> np.ndarray:
    """Return `index` in the order of `epoch`; `more` tells several orders of one epoch apart."""
    return index[np.random.Generator(np.random.PCG64([seed, epoch, *more])).permutation(len(index))]


def cut(order: np.ndarray, limits: Limits, atoms: np.ndarray, edges: np.ndarray) -> list[np.ndarray]:
    """Cut `order` into batches within `limits`; atoms, edges: [G] counts of all graphs of the data set."""
    if limits.atoms is None and limits.edges is None:
        return [order[i : i + limits.graphs] for i in range(0, len(order), limits.graphs)]
    cuts, graphs, most = [0], 0, (limits.atoms or np.inf, limits.edges or np.inf)
    sums = (0, 0)
    for place, sizes in enumerate(zip(atoms[order].tolist(), edges[order].tolist(), strict=True)):
        grown = (sums[0] + sizes[0], sums[1] + sizes[1])
        if graphs and (graphs == limits.graphs or grown[0] > most[0] or grown[1] > most[1]):
            cuts.append(place)
            graphs, grown = 0, sizes
        graphs, sums = graphs + 1, grown
    return np.split(order, cuts[1:]) if len(order) else []


def plan_in_memory(
    index: np.ndarray, limits: Limits, atoms: np.ndarray, edges: np.ndarray, seed: int, epoch: int
) -> list[Window]:
    """Plan an epoch over a data set that is in memory as a whole: one window, any graph beside any other."""
    return [Window(None, cut(epoch_order(index, seed, epoch), limits, atoms, edges))]


def plan_stream(
    index: np.ndarray,
    limits: Limits,
    atoms: np.ndarray,
    edges: np.ndarray,
    seed: int,
    epoch: int,
    shard_starts: np.ndarray,
    window: int,
) -> list[Window]:
    """Plan an epoch over a data set too large for memory: shards in random order, `window` of them at a time, graphs
    in random order within a window. No batch crosses a window, so a window's last may be small.

    shard_starts: [S+1] number of the first graph of each shard.
    """
    shard_of = np.searchsorted(shard_starts, index, side="right") - 1
    shards = epoch_order(np.arange(len(shard_starts) - 1), seed, epoch)
    windows = []
    for number in range(0, len(shards), window):
        chosen = shards[number : number + window]
        members = index[np.isin(shard_of, chosen)]
        if len(members):
            order = epoch_order(members, seed, epoch, number)
            windows.append(Window(sorted(chosen.tolist()), cut(order, limits, atoms, edges)))
    return windows


def share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """Return the graphs of a global batch that `rank` works on: none where it has fewer graphs than ranks.

    A rank with none runs the step all the same, on a batch of 0 graphs, so that no other waits for it for ever.
    """
    start, end = (len(batch) * r // ranks for r in (rank, rank + 1))
    return batch[start:end]
