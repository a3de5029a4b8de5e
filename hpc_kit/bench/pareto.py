"""Pareto fronts: which settings no other beats in one measure without losing in another, and how sure that is.

Both measures are costs: less is better. The rule, on values as they are, never on rounded ones: A dominates B where A
is no worse in every measure and better in one. The front is what nothing dominates. So of two settings that are equal
in one measure the better in the other stays; two that are equal in all both stay, since neither is better.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Name = TypeVar("Name")
Values = Sequence[float]
DRAWS = 10_000


def dominates(one: Values, other: Values) -> bool:
    """Tell whether `one` is no worse than `other` in every measure and better in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


def front(points: Mapping[Name, Values]) -> list[Name]:
    """Return which points nothing dominates, by the first measure, then the next; equal ones as they come."""
    kept = [name for name, values in points.items() if not any(dominates(o, values) for o in points.values())]
    return sorted(kept, key=lambda name: tuple(points[name]))


def dominators(points: Mapping[Name, Values], name: Name) -> list[Name]:
    """Return which points dominate `name`, by the first measure."""
    found = [other for other, values in points.items() if dominates(values, points[name])]
    return sorted(found, key=lambda other: tuple(points[other]))


def rounded_fronts(points: Mapping[Name, Values], half: float) -> tuple[set[Name], set[Name]]:
    """Return which points are in the front, and which may be, for all values that round to the ones given.

    half: half of the last digit, as 0.005 of values with two decimals. A point is in the front for certain where no
    other can dominate it, and out for certain where some other dominates it whatever the digits behind were.
    """
    certain, possible = set(), set()
    for name, values in points.items():
        others = [other for key, other in points.items() if key != name]
        highest, lowest = [v + half for v in values], [v - half for v in values]
        if not any(all(o - half < h for o, h in zip(other, highest, strict=True)) for other in others):
            certain.add(name)
        if not any(all(o + half <= low for o, low in zip(other, lowest, strict=True)) for other in others):
            possible.add(name)
    return certain, possible


def certainty(
    samples: Mapping[Name, Sequence[Values]], draws: int = DRAWS, seed: int = 0
) -> dict[Name, float | None]:
    """Return for each setting the share of `draws` in which it is in the front.

    samples: setting -> values of each of its runs, [runs, measures]. A draw takes as many runs of each setting as it
    has, with replacement, the measures of one run together, and averages them (the bootstrap over runs; Efron 1979,
    doi 10.1214/aos/1176344552). With few runs it shows too little spread: of n runs by a factor sqrt((n - 1) / n).
    None for a setting with a single run, of which nothing is known; others are held against its one value.
    """
    names = list(samples)
    generator = np.random.default_rng(seed)
    means = np.stack(
        [
            values[generator.integers(len(values), size=(draws, len(values)))].mean(axis=1)
            for values in (np.asarray(samples[name], dtype=float) for name in names)
        ]
    )  # [settings, draws, measures]
    shares: dict[Name, float | None] = {}
    for place, name in enumerate(names):
        no_worse = (means <= means[place]).all(axis=2) & (means < means[place]).any(axis=2)
        shares[name] = None if len(samples[name]) < 2 else float(1.0 - no_worse.any(axis=0).mean())
    return shares
