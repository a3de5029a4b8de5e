"""Whether one group of numbers is lower than another by more than chance: the rank test, what it could have found,
and the words for it. Exact, and free of scipy, so that a login node can say it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.05
POWER = 0.8
_DRAWS = 2000  # of the simulation; its standard error is at most 0.011
_COUNTED = 60  # numbers in both groups together, up to which the ways to deal the ranks are counted out


@dataclass(frozen=True)
class Compared:
    """What the rank test of `n` against `m` numbers gave.

    `p` is two-sided, `least_p` the least that so many numbers can give. `lower` is the share of pairs in which the
    first group's number is the lower one, ties as half (0.5: no difference). `detectable` is the shift, in standard
    deviations of normal numbers, that such a test would find in POWER of all cases; None where none is found.
    """

    n: int
    m: int
    p: float
    least_p: float
    lower: float
    detectable: float | None


def compare(first: Sequence[float], second: Sequence[float]) -> Compared:
    """Compare two groups of at least one number each; `math.inf` stands for a number that never came.

    Mann and Whitney 1947, doi 10.1214/aoms/1177730491, with the distribution counted out over all ways to deal the
    ranks, those of equal numbers averaged (Streitberg and Roehmel 1986): exact with ties too. Beyond _COUNTED numbers
    by the normal distribution with its correction for ties and continuity.
    """
    n, m = len(first), len(second)
    ranks = _double_ranks([*first, *second])
    p = _two_sided(sum(ranks[:n]), tuple(sorted(ranks)), n)
    lower = sum((a < b) + 0.5 * (a == b) for a in first for b in second) / (n * m)
    return Compared(n, m, p, least_p(n, m), lower, detectable_shift(n, m))


def least_p(n: int, m: int) -> float:
    """Return the least p that n against m numbers can give: all of one group below all of the other."""
    return min(1.0, 2 / math.comb(n + m, n))


def power(n: int, m: int, shift: float, level: float = LEVEL) -> float:
    """Return how often the test finds a shift of the second group by `shift` standard deviations of normal numbers,
    by simulation with a fixed seed."""
    if least_p(n, m) > level:
        return 0.0
    values = np.concatenate([_noise(n, m)[:, :n], _noise(n, m)[:, n:] + shift], axis=1)
    ranks = values.argsort(axis=1).argsort(axis=1) + 1
    wins = n * m - (ranks[:, :n].sum(axis=1) - n * (n + 1) // 2)
    return float(np.mean(_p_of_wins(n, m)[wins] <= level))


@cache
def detectable_shift(n: int, m: int, level: float = LEVEL) -> float | None:
    """Return the shift, in standard deviations, that is found with probability POWER; None where none ever is."""
    if least_p(n, m) > level:
        return None
    low, high = 0.0, 1.0
    while power(n, m, high, level) < POWER:
        low, high = high, 2 * high
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if power(n, m, middle, level) < POWER else (low, middle)
    return round(high, 2)


def adjusted(ps: Sequence[float]) -> list[float]:
    """Return p values of several comparisons so that the chance of one false alarm among all stays at the level
    (Holm 1979, https://www.jstor.org/stable/4615733)."""
    found, least = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - place) * ps[index]))
        found[index] = least
    return found


def sentence(found: Compared, first: str, second: str, p: float | None = None, level: float = LEVEL) -> str:
    """Return whether the difference is more than chance, in words. `p` is the adjusted one, where there are several
    comparisons."""
    p = found.p if p is None else p
    runs = f"{found.n} against {found.m} searches"
    if found.least_p > level:
        return (
            f"{first} and {second} cannot be told apart by {runs}: the least p that the rank test can give is"
            f" {found.least_p:.2g}, above {level:g}. At least 4 seeds of each are needed."
        )
    test = f"p = {p:.2g}, rank test of {runs}"
    finds = (
        f"the test finds a difference of {found.detectable:.1f} standard deviations between seeds in {POWER:.0%} of"
        " all cases, and smaller ones less often"
    )
    if p > level:
        return f"No difference between {first} and {second} that is more than chance ({test}); {finds}."
    better, worse, share = (first, second, found.lower) if found.lower > 0.5 else (second, first, 1 - found.lower)
    won = f"{better} is better than {worse} by more than chance ({test}): lower in {share:.0%} of the pairs"
    return f"{won}; {finds}."


def _double_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value, from 1; equal values share the mean of theirs."""
    below, count = {}, 0
    for value, times in sorted(Counter(values).items()):
        below[value] = 2 * count + times + 1
        count += times
    return [below[value] for value in values]


@cache
def _ways(ranks: tuple[int, ...], n: int) -> dict[int, int]:
    """Return sum -> in how many ways n of `ranks` give it."""
    ways: list[Counter] = [Counter({0: 1}), *(Counter() for _ in range(n))]
    for rank in ranks:
        for size in range(n, 0, -1):
            for total, count in ways[size - 1].items():
                ways[size][total + rank] += count
    return dict(ways[n])


def _two_sided(total: int, ranks: tuple[int, ...], n: int) -> float:
    """Return the share of all ways to deal the ranks that are as far from the middle as `total`, or farther."""
    count, middle = len(ranks), n * sum(ranks) / len(ranks)
    if count > _COUNTED:
        spread = sum((rank - middle / n) ** 2 for rank in ranks) * n * (count - n) / (count * (count - 1))
        return math.erfc(max(abs(total - middle) - 1, 0.0) / math.sqrt(2 * spread)) if spread else 1.0
    ways = _ways(ranks, n)
    far = sum(count for other, count in ways.items() if abs(other - middle) >= abs(total - middle) - 1e-9)
    return far / sum(ways.values())


@cache
def _p_of_wins(n: int, m: int) -> np.ndarray:
    """Return [n·m + 1]: the p of each number of pairs in which the first is the lower one, without ties."""
    ranks = tuple(range(2, 2 * (n + m) + 1, 2))
    least = n * (n + 1)  # twice the least sum of ranks: all pairs won
    return np.array([_two_sided(least + 2 * (n * m - wins), ranks, n) for wins in range(n * m + 1)])


@cache
def _noise(n: int, m: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((_DRAWS, n + m))
