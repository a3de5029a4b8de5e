"""Split files: the forms that are read, and what the login side refuses before anything starts."""

import json
import zipfile

import pytest

from hpc_kit.data.manifest import content_sha256, read_manifest
from hpc_kit.data.split_file import read_split_file, resolve_split, split_sha256
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.split import Counts, Folds, Fractions, FromFile, Groups, Published

SAMPLE = read_manifest(shipped_folder("embedded") / "qm9_sample")
SHA = SAMPLE.sha256
MEMBERS = {"train": ["gdb_8", "gdb_3"], "val": ["gdb_11"], "test": ["gdb_62"]}


@pytest.fixture
def split_file(tmp_path):
    def write(content) -> str:
        path = tmp_path / "split.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_lists_of_ids_are_read_in_their_order(split_file):
    assert read_split_file(split_file(MEMBERS), SHA) == (MEMBERS, False)


def test_zipped_ids_with_targets_are_read_as_the_leaderboard_publishes_them(tmp_path):
    path = tmp_path / "dft_3d_slme.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        targets = {part: {id: 1.5 for id in ids} for part, ids in MEMBERS.items()}
        archive.writestr("dft_3d_slme.json", json.dumps(targets))
    assert read_split_file(path, SHA) == (MEMBERS, False)


def test_manifest_says_which_data_set_it_splits(split_file):
    content = MEMBERS | {"dataset_sha256": SHA, "sha256": split_sha256(SHA, MEMBERS)}
    assert read_split_file(split_file(content), SHA) == (MEMBERS, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a split"),
        ('{"train": ["a"], "val": ["b"], "test": [], "train": ["c"]}', "'train' stands twice in one object"),
        ('{"train": {"a": 1, "a": 2}, "val": ["b"], "test": []}', "'a' stands twice in one object"),
        ([1, 2], "must hold train, val and test, each a list of ids or ids with targets"),
        ({"train": ["a"], "test": ["b"]}, "has no val; it must hold train, val and test"),
        ({"train": "a", "val": ["b"], "test": []}, "must hold train, val and test"),
        (MEMBERS | {"val": [11]}, "val holds 11; graphs are named by their ids, which are text"),
        (MEMBERS | {"test": ["gdb_62", "gdb_8"]}, r"stand twice: 1 \(gdb_8; gdb_8 in train and in test\)"),
        (MEMBERS | {"train": ["gdb_8", "gdb_8"]}, "gdb_8 in train and in train"),
        (MEMBERS | {"dataset_sha256": "f" * 64}, f"another data set .sha256 ffffffffffff, this one is {SHA[:12]}"),
        (MEMBERS | {"dataset_sha256": SHA, "sha256": "0" * 64}, "do not match its own sha256: it was altered"),
    ],
)  # fmt: skip
def test_file_that_is_no_split_of_this_data_set_is_refused(split_file, content, message):
    path = split_file(content)
    with pytest.raises(InputError, match=message) as caught:
        read_split_file(path, SHA)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.json: no such file"):
        read_split_file(tmp_path / "nowhere.json", SHA)


def test_archive_of_two_files_is_refused(tmp_path):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.json", "b.json"):
            archive.writestr(name, "{}")
    with pytest.raises(InputError, match="holds 2 JSON files; one is needed"):
        read_split_file(path, SHA)


def test_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "split.json.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("split.json", json.dumps(MEMBERS))
    content = bytearray(path.read_bytes())
    content[45:55] = b"x" * 10
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a split"):
        read_split_file(path, SHA)


def test_resolving_fills_in_path_and_hash(split_file, monkeypatch):
    path = split_file(MEMBERS)
    monkeypatch.chdir(path.parent)
    resolved = resolve_split(FromFile(manifest="split.json"), SAMPLE)
    assert resolved == FromFile(manifest=str(path), sha256=split_sha256(SHA, MEMBERS))


def test_resolving_leaves_what_names_no_file_as_it_is():
    assert resolve_split(Fractions(seed=4), SAMPLE) == Fractions(seed=4)


def test_file_with_another_hash_than_the_job_pins_is_refused(split_file):
    with pytest.raises(InputError, match="not the 0{64} that is asked for"):
        resolve_split(FromFile(manifest=str(split_file(MEMBERS)), sha256="0" * 64), SAMPLE)


def test_file_that_names_more_graphs_than_there_are_is_refused(split_file):
    path = split_file(MEMBERS | {"train": [f"gdb_{i}" for i in range(100_000, 104_000)]})
    with pytest.raises(InputError, match="names 4002 graphs; the data set has 4000: it was made for another version"):
        resolve_split(FromFile(manifest=str(path)), SAMPLE)


def test_counts_beyond_the_data_set_are_refused():
    with pytest.raises(InputError, match="is 130831; the data set has 4000 graphs"):
        resolve_split(Counts(train=110000, val=10000, test=10831), SAMPLE)


@pytest.mark.parametrize(
    ("split", "known", "message"),
    [
        (Fractions(), 9, "4000 graphs, 9 of them with the target, which leave none to val and test"),
        (Fractions(test=0.0), 9, "leave none to val$"),
        (Fractions(train=0.001, val=0.8), 900, "leave none to train"),
        (Counts(train=8, val=1, test=1), 9, r"train \+ val \+ test is 10; .* 9 of them with the target"),
        (Folds(folds=5, fold=0), 4, "leave none to val and test"),
        (Groups(group="formula"), 2, "leave none to test"),
    ],
)  # fmt: skip
def test_part_that_stays_empty_is_found_from_the_manifest(split, known, message):
    dataset = SAMPLE.model_copy(update={"known": {"zpve": known, "gap": 4000}})
    assert resolve_split(split, dataset, ["gap"]) == split
    with pytest.raises(InputError, match=message):
        resolve_split(split, dataset, ["zpve", "gap"])


def test_split_file_without_a_graph_to_validate_on_is_refused(split_file):
    path = split_file(MEMBERS | {"val": []})
    with pytest.raises(InputError, match="split.json: names no graph of val"):
        resolve_split(FromFile(manifest=str(path)), SAMPLE)
    resolve_split(FromFile(manifest=str(split_file(MEMBERS | {"test": []}))), SAMPLE)


def test_published_split_that_the_data_set_does_not_carry_is_refused():
    with pytest.raises(InputError, match="carries no published split, so none named 'leaderboard'"):
        resolve_split(Published(published="leaderboard"), SAMPLE)
    carrying = SAMPLE.model_copy(update={"splits": {"leaderboard": MEMBERS}})
    assert resolve_split(Published(published="leaderboard"), carrying) == Published(published="leaderboard")
    with pytest.raises(InputError, match="no split 'leaderbord'; did you mean 'leaderboard'"):
        resolve_split(Published(published="leaderbord"), carrying)


def test_manifest_without_published_splits_is_read_and_one_with_them_has_another_hash(tmp_path):
    fields = json.loads((shipped_folder("embedded") / "qm9_sample" / "manifest.json").read_text())
    fields.pop("splits", None)
    fields["sha256"] = content_sha256(fields)
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    assert read_manifest(tmp_path).splits == {}
    fields["splits"] = {"leaderboard": MEMBERS}
    assert content_sha256(fields) != fields["sha256"]
