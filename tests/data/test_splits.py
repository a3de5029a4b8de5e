"""Splits: disjoint, reproducible, written down by identifier."""

import numpy as np

from hpc_kit.data.splits import random_split
from hpc_kit.spec.job import Split

IDS = np.array([f"m{i}".encode() for i in range(101)])


def draw(seed=0, usable=None):
    usable = np.arange(101) if usable is None else usable
    return random_split(IDS, usable, Split(train=0.8, val=0.1, test=0.1, seed=seed), "sha")


def test_parts_are_disjoint_and_of_the_right_size():
    parts = draw().indices
    assert [len(parts[name]) for name in ("train", "val", "test")] == [80, 10, 10]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 100


def test_split_depends_on_its_seed_alone():
    assert draw(1).sha256 == draw(1).sha256 != draw(2).sha256


def test_manifest_names_the_members_by_id():
    parts = draw()
    assert parts.manifest["val"] == [IDS[i].decode() for i in parts.indices["val"]]


def test_graphs_without_the_target_are_in_no_part():
    parts = draw(usable=np.arange(50, 101))
    assert min(index.min() for index in parts.indices.values()) >= 50
