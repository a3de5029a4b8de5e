"""Splits: disjoint, reproducible, written down by identifier; what does not fit the data set is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hpc_kit.data.groups import group_graphs
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import read_shard_set
from hpc_kit.data.split_file import split_sha256
from hpc_kit.data.splits import draw
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.split import PARTS, Counts, Folds, Fractions, FromFile, Groups, Published

SAMPLE = shipped_folder("embedded") / "qm9_sample"
MANIFEST = read_manifest(SAMPLE)
ARRAYS = read_shard_set(SAMPLE, MANIFEST)
ALL = np.ones(4000, dtype=bool)
HALF = np.arange(4000) % 2 == 1
FORMULAS = group_graphs("formula", ARRAYS.z, ARRAYS.atom_ptr, ARRAYS.pbc)


def split_sample(split, has_target=ALL, published=None):
    grouping = FORMULAS if getattr(split, "group", None) else None
    return draw(split, ARRAYS.ids, has_target, MANIFEST.sha256, published, grouping)


def sizes(parts):
    return [len(parts.indices[part]) for part in PARTS]


def names(*rows: int) -> list[str]:
    return [ARRAYS.ids[row].decode() for row in rows]


def write_split(folder, **content) -> FromFile:
    path = folder / "split.json"
    path.write_text(json.dumps(content))
    return FromFile(manifest=str(path))


DRAWN = [
    Fractions(seed=3),
    Fractions(train=0.03, val=0.01, test=0.01),
    Counts(train=3000, val=500, test=400, seed=1),
    Groups(group="formula"),
    Groups(group="formula", train=0.5, val=0.2, test=0.1, seed=5),
    Folds(folds=5, fold=2),
    Folds(folds=5, fold=4, group="formula", seed=2),
]


@pytest.mark.parametrize("has_target", [ALL, HALF], ids=["all", "half"])
@pytest.mark.parametrize("split", DRAWN, ids=str)
def test_parts_are_disjoint_and_hold_only_graphs_with_the_target(split, has_target):
    if isinstance(split, Counts) and has_target is HALF:
        split = Counts(train=1500, val=250, test=200)
    rows = np.concatenate(list(split_sample(split, has_target).indices.values()))
    assert len(np.unique(rows)) == len(rows)
    assert has_target[rows].all()


@pytest.mark.parametrize("split", [Fractions(), Groups(group="formula"), *DRAWN[-2:]], ids=str)
def test_parts_that_sum_to_one_hold_every_graph(split):
    assert sum(sizes(split_sample(split))) == 4000


@pytest.mark.parametrize("split", DRAWN, ids=str)
def test_another_process_draws_the_same_split(split):
    code = (
        "from hpc_kit.spec.split import *; import runpy, sys; here = runpy.run_path(sys.argv[1]);"
        f"print(here['split_sample']({split!r}).sha256)"
    )
    out = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == split_sample(split).sha256


@pytest.mark.parametrize("split", DRAWN, ids=str)
def test_seed_decides(split):
    other = split.model_copy(update={"seed": 99})
    assert split_sample(split).sha256 != split_sample(other).sha256


def test_fractions_are_cut_from_one_permutation():
    order = np.random.Generator(np.random.PCG64(7)).permutation(4000)
    parts = split_sample(Fractions(seed=7)).indices
    np.testing.assert_array_equal(np.concatenate([parts[part] for part in PARTS]), order)
    assert [len(parts[part]) for part in PARTS] == [3200, 400, 400]


def test_counts_are_met_exactly_and_draw_as_fractions_do():
    counts = split_sample(Counts(train=3200, val=400, test=400, seed=7))
    assert sizes(counts) == [3200, 400, 400]
    assert counts.sha256 == split_sample(Fractions(seed=7)).sha256


def test_counts_beyond_the_graphs_with_the_target_are_refused():
    with pytest.raises(
        InputError, match=r"data.split: train \+ val \+ test is 2100; .* 4000 graphs, 2000 of them with"
    ):
        split_sample(Counts(train=2000, val=50, test=50), HALF)


@pytest.mark.parametrize("group", [None, "formula"])
def test_test_parts_of_all_folds_are_the_data_set(group):
    parts = [split_sample(Folds(folds=7, fold=fold, group=group)) for fold in range(7)]
    tests = np.concatenate([part.indices["test"] for part in parts])
    np.testing.assert_array_equal(np.sort(tests), np.arange(4000))
    assert {len(part.indices["test"]) for part in parts} == {571, 572}
    assert {len(part.indices["val"]) for part in parts} == {400}


@pytest.mark.parametrize("split", [DRAWN[3], DRAWN[4], DRAWN[6]], ids=str)
def test_no_formula_is_in_two_parts(split):
    parts = split_sample(split).indices
    formulas = [set(FORMULAS.number[parts[part]].tolist()) for part in PARTS]
    assert not (formulas[0] & formulas[1] or formulas[0] & formulas[2] or formulas[1] & formulas[2])


def test_grouped_fractions_are_reached():
    assert sizes(split_sample(Groups(group="formula"))) == [3200, 400, 400]


def test_split_does_not_depend_on_graphs_beyond_those_with_the_target():
    """The draw sees which graphs have the target and nothing else: a subset draws like a set of its own."""
    alone = draw(Fractions(), ARRAYS.ids[HALF], np.ones(2000, dtype=bool), MANIFEST.sha256)
    assert alone.sha256 == split_sample(Fractions(), HALF).sha256


def test_graphs_without_the_target_are_counted_and_told():
    parts = split_sample(Fractions(), HALF)
    assert parts.manifest["left_out_without_target"] == 2000
    assert parts.notes == ["split: 2000 of 4000 graphs lack the target and are left out (2000 of any part)"]


def test_empty_training_or_validation_part_is_refused():
    few = np.arange(4000) < 5
    with pytest.raises(
        InputError,
        match="data.split: the data set has 4000 graphs, 5 of them with the target, which leave none to val",
    ):
        split_sample(Fractions(), few)


def test_more_folds_than_groups_are_refused():
    few = FORMULAS.number < 20
    with pytest.raises(InputError, match="in 20 groups leave none to test"):
        for fold in range(30):
            split_sample(Folds(folds=30, fold=fold, group="formula"), few)


def test_data_set_that_names_a_graph_twice_is_refused():
    ids = np.array([b"a", b"b", b"a", b"c"])
    with pytest.raises(InputError, match=r"stand twice: 1 \(a\)"):
        draw(Fractions(), ids, np.ones(4, dtype=bool), "sha")


def test_manifest_names_the_members_by_id_with_its_hash():
    parts = split_sample(Fractions())
    assert parts.manifest["val"] == names(*parts.indices["val"])
    assert parts.manifest["dataset_sha256"] == MANIFEST.sha256
    assert parts.manifest["settings"] == {"train": 0.8, "val": 0.1, "test": 0.1, "seed": 0}
    assert parts.manifest["sha256"] == parts.sha256 == split_sha256(MANIFEST.sha256, parts.manifest)


def test_hash_is_of_the_membership_alone():
    members = {"train": ["a", "b"], "val": ["c"], "test": []}
    assert split_sha256("x", members) == split_sha256("x", members | {"train": ["b", "a"]})
    assert split_sha256("x", members) != split_sha256("y", members)
    assert split_sha256("x", members) != split_sha256("x", members | {"val": [], "test": ["c"]})


@pytest.mark.parametrize("split", DRAWN, ids=str)
def test_manifest_of_a_run_gives_its_split_again_in_the_same_order(tmp_path, split):
    first = split_sample(split)
    again = split_sample(write_split(tmp_path, **first.manifest))
    assert again.sha256 == first.sha256
    assert all(np.array_equal(again.indices[part], first.indices[part]) for part in PARTS)
    assert again.notes == []


def test_plain_file_is_taken_and_recorded_as_one_that_names_no_data_set(tmp_path):
    parts = split_sample(write_split(tmp_path, train=names(5, 3), val=names(1), test=names(0)))
    assert [rows.tolist() for rows in parts.indices.values()] == [[5, 3], [1], [0]]
    assert parts.manifest["file_names_its_data_set"] is False
    assert "does not say which data set it splits" in parts.notes[0]


def test_named_graphs_without_the_target_are_left_out_and_told(tmp_path):
    parts = split_sample(write_split(tmp_path, train=names(0, 1, 3), val=names(2, 5), test=names(4)), HALF)
    assert sizes(parts) == [2, 1, 0]
    assert parts.manifest["left_out_without_target"] == 3
    assert parts.notes[1] == (
        "split: 3 of 6 graphs lack the target and are left out (1 of train, 1 of val, 1 of test)"
    )


def test_validation_part_without_any_target_is_refused(tmp_path):
    with pytest.raises(InputError, match="leave none to val"):
        split_sample(write_split(tmp_path, train=names(1), val=names(0), test=[]), HALF)


def test_file_made_for_a_larger_version_of_the_data_set_is_refused(tmp_path):
    gone = ["gdb_900001", "gdb_900002", "gdb_900003", "gdb_900004"]
    with pytest.raises(InputError) as caught:
        split_sample(write_split(tmp_path, train=names(0, 1) + gone, val=names(2), test=names(3)))
    assert "4 of the 8 graphs it names are not among the data set's 4000" in str(caught.value)
    assert "(gdb_900001, gdb_900002, gdb_900003, …): it was made for another version" in str(caught.value)


def test_file_that_changed_since_planning_is_refused(tmp_path):
    split = write_split(tmp_path, train=names(0), val=names(1), test=names(2))
    planned = split.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(InputError, match="has changed since the job was planned"):
        split_sample(planned)


def test_published_split_is_the_one_the_data_set_carries():
    carried = {"leaderboard": {"train": names(9, 8), "val": names(7), "test": names(6, 5)}}
    parts = split_sample(Published(published="leaderboard"), published=carried)
    assert [rows.tolist() for rows in parts.indices.values()] == [[9, 8], [7], [6, 5]]


def test_published_split_with_an_unknown_graph_is_refused():
    carried = {"leaderboard": {"train": [*names(9), "gdb_0"], "val": names(7), "test": []}}
    with pytest.raises(InputError, match=r"published: leaderboard: 1 of the 3 graphs it names .*\(gdb_0\)"):
        split_sample(Published(published="leaderboard"), published=carried)
