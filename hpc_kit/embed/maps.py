"""Features in two and three dimensions: UMAP, and PCA beside it as what a map without any bending looks like; and how
far neighbours in a map are neighbours in the features (trustworthiness).

Not for: the features (features.py), or the page (page.py).
"""

import warnings
from dataclasses import dataclass

import numpy as np

from hpc_kit.embed.job import Umap, too_few
from hpc_kit.spec.errors import InputError

SAMPLE = 3000  # structures that trustworthiness is told of: its memory is quadratic
NEAREST = 12


@dataclass
class Mapped:
    """Maps of n structures: coordinates of "pca-2", "umap-3" and so on -> [n, dimensions]; trustworthiness of each,
    between 0 and 1; the number of structures that UMAP was fitted on; distinct: structures whose features no other
    has, each set of equal ones counted once; explained: share of the variance in each of PCA's first three."""

    coordinates: dict[str, np.ndarray]
    trustworthiness: dict[str, float]
    fitted: int
    distinct: int
    explained: list[float]


def distinct_rows(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of each set of equal rows, in their order, and the place in it of each row."""
    _, first, inverse = np.unique(features, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[inverse.reshape(-1)]


def maps_of(features: np.ndarray, asked: Umap | None) -> Mapped:
    """Return the maps of features [n, F]. Each feature counts in its own size, as the model's last layer sees it.

    UMAP is given each set of equal rows once: it does not give the same map twice where rows are equal. Raises
    InputError where fewer structures differ than there are neighbours, and where umap-learn is missing.
    """
    rows, place = distinct_rows(features)
    distinct = np.ascontiguousarray(features[rows], dtype=np.float32)
    if len(distinct) < 3:
        raise InputError(f"a map needs 3 structures that differ, and there are {len(distinct)}")
    if asked is not None and len(distinct) <= asked.neighbors:
        raise InputError(f"umap.neighbors: {too_few(len(distinct), asked.neighbors)}")
    dimensions = [2, 3] if asked is None else asked.dimensions
    straight, explained = pca(distinct)
    found = {f"pca-{d}": straight[:, :d] for d in dimensions if d <= straight.shape[1]}
    fitted = 0
    if asked is not None:
        for d in dimensions:
            found[f"umap-{d}"], fitted = _umap(distinct, d, asked)
    return Mapped(
        {name: coordinates[place] for name, coordinates in found.items()},
        {name: trust(distinct, coordinates) for name, coordinates in found.items()},
        fitted,
        len(distinct),
        explained,
    )


def pca(features: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """features [n, F] -> the first three principal components [n, 3 or fewer], their signs such that the largest of
    each is positive, and their shares of the variance. Raises InputError where all features are the same."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    total = float(values.sum())
    if total <= 0:
        raise InputError(f"all {len(features)} structures have the same features: nothing tells them apart")
    vectors, values = vectors[:, ::-1][:, :3], values[::-1][:3]
    found = centred @ vectors
    largest = found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]
    return found * np.where(largest < 0, -1.0, 1.0), [float(max(value, 0.0) / total) for value in values]


def trust(features: np.ndarray, coordinates: np.ndarray) -> float:
    """Return the trustworthiness (Venna and Kaski 2001) of a map: 1 less a penalty for neighbours in the map that are
    none in the features; of SAMPLE structures at most, with NEAREST neighbours (a third of fewer than 36)."""
    from sklearn.manifold import trustworthiness

    rows = np.random.default_rng(0).permutation(len(features))[:SAMPLE]
    nearest = min(NEAREST, max(1, len(rows) // 3))
    return float(trustworthiness(features[rows], coordinates[rows], n_neighbors=nearest))


def need_maps(asked: Umap | None) -> None:
    """Raise InputError where what makes maps is not installed."""
    from importlib.util import find_spec

    for module in ("sklearn", "scipy", *(["umap"] if asked is not None else [])):
        if find_spec(module) is None:
            raise InputError(f"maps of features need {module}: pip install 'hpc_kit[explain]'")


def _umap(features: np.ndarray, dimensions: int, asked: Umap) -> tuple[np.ndarray, int]:
    """Return coordinates [n, dimensions], and on how many structures the map was fitted."""
    import umap

    rows = np.arange(len(features))
    if len(rows) > asked.fit:
        rows = np.sort(np.random.default_rng(asked.seed).permutation(len(rows))[: asked.fit])
    reducer = umap.UMAP(
        n_components=dimensions,
        n_neighbors=asked.neighbors,
        min_dist=asked.min_dist,
        random_state=asked.seed,
        init="pca" if features.shape[1] >= dimensions else "random",
        n_jobs=1,
    )
    found = np.empty((len(features), dimensions), np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="umap")
        warnings.filterwarnings("ignore", message=".*n_jobs.*")
        found[rows] = reducer.fit_transform(features[rows])
        rest = np.setdiff1d(np.arange(len(features)), rows)
        if len(rest):
            found[rest] = reducer.transform(features[rest])
    return found, len(rows)
