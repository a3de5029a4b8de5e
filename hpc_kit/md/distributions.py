"""How bonds, angles and distances are distributed over frames, and how far apart two distributions are. Node side.

Frames of one run follow each other and are not independent: intervals come from drawing whole blocks of them.
"""

import numpy as np
from scipy.stats import wasserstein_distance

BLOCKS = 10  # of each replica
DRAWS = 200
_EDGES = {2: np.linspace(0.5, 3.0, 251), 3: np.linspace(0.0, 180.0, 181)}  # Angstrom; degrees
_H_EDGES = np.linspace(0.0, 15.0, 301)


def values_of(pos: np.ndarray, members: np.ndarray) -> np.ndarray:
    """pos [F, n, 3] Angstrom; members [K, 2] bonds or [K, 3] angles -> [F, K] Angstrom or degrees."""
    if members.shape[1] == 2:
        return np.linalg.norm(pos[:, members[:, 0]] - pos[:, members[:, 1]], axis=2)
    first = pos[:, members[:, 0]] - pos[:, members[:, 1]]
    second = pos[:, members[:, 2]] - pos[:, members[:, 1]]
    cosine = (first * second).sum(axis=2) / (np.linalg.norm(first, axis=2) * np.linalg.norm(second, axis=2))
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def unit_of(members: np.ndarray) -> str:
    return "Angstrom" if members.shape[1] == 2 else "degree"


def density(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the density of values in fixed bins (0.01 Angstrom, 1 degree); what lies beyond is in the outermost."""
    edges = _EDGES[members.shape[1]]
    count, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return count / max(count.sum(), 1) / (edges[1] - edges[0])


def band(values: np.ndarray, replica: np.ndarray, members: np.ndarray) -> dict[str, list[float]]:
    """Return the histogram of values [F, K] with the least and the largest of its replicas in each bin, from the
    first bin to the last that is not empty: x (middles), mean, low, high."""
    edges = _EDGES[members.shape[1]]
    each = np.stack([density(values[replica == r], members) for r in np.unique(replica)])
    mean = density(values, members)
    full = np.flatnonzero(mean)
    span = slice(max(full[0] - 1, 0), full[-1] + 2)
    middles = 0.5 * (edges[1:] + edges[:-1])
    columns = {"x": middles, "mean": mean, "low": each.min(axis=0), "high": each.max(axis=0)}
    return {name: [round(float(v), 5) for v in column[span]] for name, column in columns.items()}


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon distance of two histograms with the same bins: 0 alike, 1 without overlap (Endres &
    Schindelin 2003, doi 10.1109/TIT.2003.813506; logarithms to base 2)."""
    p, q = p / p.sum(), q / q.sum()
    middle = 0.5 * (p + q)

    def divergence(a: np.ndarray) -> float:
        full = a > 0
        return float((a[full] * np.log2(a[full] / middle[full])).sum())

    return float(np.sqrt(max(0.5 * divergence(p) + 0.5 * divergence(q), 0.0)))


def blocks_of(replica: np.ndarray, blocks: int = BLOCKS) -> list[np.ndarray]:
    """Return the frames' numbers in blocks of frames that follow each other in one replica."""
    found = []
    for r in np.unique(replica):
        frames = np.flatnonzero(replica == r)
        found += [part for part in np.array_split(frames, min(blocks, len(frames))) if len(part)]
    return found


def compare(
    ours: np.ndarray, theirs: np.ndarray, our_replica: np.ndarray, their_replica: np.ndarray, members: np.ndarray
) -> dict[str, float | list[float]]:
    """Return the distances between two sets of values [F, K]: `wasserstein` (Angstrom or degrees), `jensen_shannon`,
    both means, and the 95 % interval of the first by DRAWS draws of blocks on both sides."""
    rng = np.random.default_rng(0)
    coarse = _EDGES[members.shape[1]]
    edges = np.linspace(coarse[0], coarse[-1], 10 * (len(coarse) - 1) + 1)
    sums = []
    for values, replica in ((ours, our_replica), (theirs, their_replica)):
        clipped = np.clip(values, edges[0], edges[-1])
        counts = np.stack([np.histogram(clipped[part], edges)[0] for part in blocks_of(replica)]).astype(float)
        drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=DRAWS) @ counts
        sums.append(np.cumsum(drawn / drawn.sum(axis=1, keepdims=True), axis=1))
    spread = np.abs(sums[0] - sums[1]).sum(axis=1) * (edges[1] - edges[0])
    return {
        "wasserstein": float(wasserstein_distance(ours.ravel(), theirs.ravel())),
        "interval": [float(v) for v in np.quantile(spread, [0.025, 0.975])],
        "jensen_shannon": jensen_shannon(density(ours, members), density(theirs, members)),
        "mean": float(ours.mean()),
        "reference_mean": float(theirs.mean()),
    }


def h_of_r(pos: np.ndarray) -> np.ndarray:
    """pos [F, n, 3] -> the density of all distances between atoms, averaged over frames, in bins of 0.05 Angstrom."""
    first, second = np.triu_indices(pos.shape[1], k=1)
    count = np.zeros(len(_H_EDGES) - 1)
    for piece in np.array_split(pos, max(1, len(pos) * len(first) // 2_000_000 + 1)):
        distance = np.linalg.norm(piece[:, first] - piece[:, second], axis=2)
        count += np.histogram(np.clip(distance, 0.0, _H_EDGES[-1]), _H_EDGES)[0]
    return count / max(count.sum(), 1) / (_H_EDGES[1] - _H_EDGES[0])


def h_error(pos: np.ndarray, reference: np.ndarray) -> float:
    """Return the integral of |<h(r)> - <h_ref(r)>| over r (Fu et al. 2022, arXiv:2210.07237): 0 alike, 2 apart."""
    return float(np.abs(h_of_r(pos) - h_of_r(reference)).sum() * (_H_EDGES[1] - _H_EDGES[0]))
