"""How rough a property is over learned features: ROGI (Aldeghi et al. 2022, doi 10.1021/acs.jcim.2c00903) and ROGI-XD
(Graff et al. 2023, doi 10.1021/acs.jcim.3c01086), with intervals and a reference. numpy and scipy only.

Structures are clustered by complete linkage; with growing distance t clusters merge, and the spread of their mean
property falls from all to nothing. What is lost early makes the index: 0 smooth, larger rougher.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_kit.spec.errors import InputError, allowed

DISTANCES = ("euclidean", "cityblock", "cosine", "tanimoto")
LEAST = 5  # structures
STEP = 0.01  # least difference of two thresholds
WHOLE = 15000  # structures at most that are clustered at once: 0.9 GB of distances, 2.5 GB at the peak


@dataclass
class Roughness:
    """The indices of n structures. `rogi` and `rogi_xd` are means over subsets of `size` structures, the `_sd` their
    standard deviation (None of one), `_whole` of all at once (None where they are too many), `_permuted` where the
    property is shuffled among the structures of each subset, `each` (ROGI, ROGI-XD) of every subset."""

    n: int
    size: int
    subsets: int
    rogi: float
    rogi_sd: float | None
    rogi_xd: float
    rogi_xd_sd: float | None
    rogi_permuted: float
    rogi_xd_permuted: float
    rogi_whole: float | None
    rogi_xd_whole: float | None
    each: list[tuple[float, float]]


def distances(features: np.ndarray, kind: str) -> np.ndarray:
    """features [n, F] -> condensed distances [n(n-1)/2] between 0 and 1: divided by the largest that the ranges of
    the features allow (euclidean, cityblock), by 2 (cosine), or as they are (tanimoto, of bits). Raises InputError
    where all features are the same, or one has no direction (cosine)."""
    from scipy.spatial.distance import pdist, squareform

    if kind not in DISTANCES:
        raise InputError(f"distance {kind!r}: {allowed(kind, DISTANCES)}")
    features = np.asarray(features, dtype=np.float32 if kind == "tanimoto" else np.float64)
    ranges = np.ptp(features, axis=0)
    if not ranges.any():
        raise InputError(f"all {len(features)} structures have the same features: nothing tells them apart")
    if kind == "tanimoto":
        common = features @ features.T
        size = np.diagonal(common)
        either = size[:, None] + size[None, :] - common
        similar = np.divide(common, either, out=np.ones_like(common), where=either > 0)
        np.subtract(1.0, similar, out=similar)
        return squareform(similar, checks=False).astype(np.float64)
    if kind == "cosine" and not (np.abs(features).max(axis=1) > 0).all():
        raise InputError("cosine: the features of a structure are all zero, and have no direction")
    largest = {"euclidean": math.sqrt(float((ranges**2).sum())), "cityblock": float(ranges.sum()), "cosine": 2.0}
    found = pdist(features, kind)
    found /= largest[kind]
    return np.clip(found, 0.0, 1.0, out=found)


def indices(condensed: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return (ROGI, ROGI-XD). condensed [n(n-1)/2] distances between 0 and 1, values [n] of a property in any unit.
    Raises InputError where there are fewer than LEAST structures, or where the property is the same for all."""
    tree = _linked(condensed, len(values))
    return _indices(tree, values)


def roughness(
    features: np.ndarray,
    values: np.ndarray,
    kind: str = "euclidean",
    size: int = 4000,
    subsets: int = 5,
    seed: int = 0,
    whole: int = WHOLE,
) -> Roughness:
    """Return the indices of `values` [n] over `features` [n, F], from `subsets` random subsets of `size` structures
    (n/2 where there are fewer than twice as many), and of all at once up to `whole` structures.

    The subsets are those of `seed` and n: the same for all models with the same structures. An index falls with the
    number of structures, so only those of one size can be compared. Raises InputError like distances and indices.
    """
    n = len(values)
    check(values)
    size = min(size, max(LEAST, n // 2))
    drawn = draw(n, size, subsets, seed)
    generator = np.random.default_rng(seed + 1)
    found, permuted = [], []
    for members in drawn:
        tree = _linked(distances(features[members], kind), size)
        found.append(_indices(tree, values[members]))
        permuted.append(_indices(tree, generator.permutation(values[members])))
    all_at_once = indices(distances(features, kind), values) if n <= whole else (None, None)
    rogi, xd = np.array(found).T
    deviation = (lambda of: float(of.std(ddof=1))) if len(found) > 1 else lambda of: None
    shuffled = np.array(permuted).mean(axis=0)
    return Roughness(
        n, size, len(found), float(rogi.mean()), deviation(rogi), float(xd.mean()), deviation(xd),
        float(shuffled[0]), float(shuffled[1]), *all_at_once, found,
    )  # fmt: skip


def draw(n: int, size: int, subsets: int, seed: int) -> list[np.ndarray]:
    """Return the numbers of the structures of each subset, sorted."""
    generator = np.random.default_rng(seed)
    return [np.sort(generator.permutation(n)[:size]) for _ in range(subsets)]


def check(values: np.ndarray) -> None:
    """Raise InputError where no roughness can be told of these values."""
    if len(values) < LEAST:
        raise InputError(f"roughness needs {LEAST} structures or more, and there are {len(values)}")
    if not np.isfinite(values).all():
        raise InputError("roughness: a value of the property is not finite")
    if not np.ptp(values):
        raise InputError("roughness: the property has the same value for all structures")


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> dict[str, float | int | None]:
    """Return Spearman's correlation of n pairs; p, the share of all orders (beyond 8 pairs: of 20,000 random ones)
    with one as large in size; least_p, the smallest that n pairs can give; and the 95 % interval by Fisher's z with
    the variance 1.06/(n-3) of Fieller et al. 1957 (None below 5 pairs). None where a side is constant or n < 3."""
    import itertools

    from scipy.stats import rankdata

    n = len(first)
    a, b = rankdata(first), rankdata(second)
    if n < 3 or not np.ptp(a) or not np.ptp(b):
        return {"n": n, "spearman": None, "p": None, "least_p": None, "low": None, "high": None}
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a**2).sum() * (b**2).sum()))
    rho = float(a @ b) / norm
    if n <= 8:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(np.arange(n), (20000, 1)), axis=1)
    size = np.abs(b[orders] @ a) / norm
    p, least = float((size >= abs(rho) - 1e-12).mean()), float((size >= size.max() - 1e-12).mean())
    low = high = None
    if n >= 5 and abs(rho) < 1:
        half = 1.96 * math.sqrt(1.06 / (n - 3))
        low, high = (math.tanh(math.atanh(rho) + sign * half) for sign in (-1, 1))
    return {"n": n, "spearman": rho, "p": p, "least_p": least, "low": low, "high": high}


def _linked(condensed: np.ndarray, n: int) -> np.ndarray:
    from scipy.cluster.hierarchy import linkage

    if n < LEAST:
        raise InputError(f"roughness needs {LEAST} structures or more, and there are {n}")
    return linkage(condensed, method="complete")


def _indices(tree: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return both indices from a linkage [n-1, 4]."""
    check(values)
    n = len(values)
    scaled = (values - values.min()) / np.ptp(values)
    at, clusters, spread = [0.0], [n], [2 * float(scaled.std())]
    sums, counts = np.zeros(2 * n - 1), np.zeros(2 * n - 1)
    sums[:n], counts[:n] = scaled, 1
    # Merging changes the weighted sum of squared means by what the two clusters lose: linear in n for all thresholds.
    squares, mean, step = float((scaled**2).sum()), float(scaled.mean()), 0
    heights = tree[:, 2]
    for t in _thresholds(heights):
        while step < n - 1 and heights[step] <= t:
            a, b = int(tree[step, 0]), int(tree[step, 1])
            new = n + step
            sums[new], counts[new] = sums[a] + sums[b], counts[a] + counts[b]
            squares += sums[new] ** 2 / counts[new] - sums[a] ** 2 / counts[a] - sums[b] ** 2 / counts[b]
            step += 1
        at.append(t)
        clusters.append(n - step)
        spread.append(2 * math.sqrt(max(squares / n - mean**2, 0.0)) if step < n - 1 else 0.0)
    at.append(1.0)
    clusters.append(1)
    spread.append(0.0)
    x = 1 - np.log(np.array(clusters, dtype=float)) / math.log(n)
    return spread[0] - float(np.trapezoid(spread, at)), spread[0] - float(np.trapezoid(spread, x))


def _thresholds(heights: np.ndarray) -> list[float]:
    """Return the heights of merges that lie STEP or more above the one before."""
    found: list[float] = []
    for t in heights.tolist():
        if not found or t - found[-1] >= STEP:
            found.append(t)
    return found
