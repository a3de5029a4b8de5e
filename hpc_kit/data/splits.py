"""Which graphs train, validate and test: drawn once per (data set, split settings) and written down by id."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_kit.spec.job import Split

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Parts:
    """Indices into the data set of each part, and the manifest that names them by id."""

    indices: dict[str, np.ndarray]
    manifest: dict[str, Any]
    sha256: str


def random_split(ids: np.ndarray, usable: np.ndarray, split: Split, dataset_sha256: str) -> Parts:
    """Draw the parts at random among the `usable` graphs (indices whose target is known).

    The draw is a pure function of the split's settings and of how many graphs are usable. Counts are rounded
    down, so fractions that sum to 1 can leave out up to two graphs.
    """
    order = usable[np.random.Generator(np.random.PCG64(split.seed)).permutation(len(usable))]
    counts = [int(len(usable) * fraction + 1e-9) for fraction in (split.train, split.val, split.test)]
    ends = np.cumsum([0, *counts])
    indices = {part: order[ends[i] : ends[i + 1]] for i, part in enumerate(PARTS)}
    manifest = {
        "dataset_sha256": dataset_sha256,
        "settings": split.model_dump(),
        **{part: [ids[i].decode() for i in indices[part]] for part in PARTS},
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return Parts(indices, manifest, digest)
