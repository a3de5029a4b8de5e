"""What a training opens: the split it trains on is the one in the run's splits/; no path gets into the records."""

import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import small_run

from hpc_kit.data.manifest import content_sha256
from hpc_kit.files import file_sha256
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.task import run_task
from hpc_kit.train.setup import open_data

SAMPLE = shipped_folder("embedded") / "qm9_sample"


def open_small(path, *overrides):
    """Plan one task and open its data; return the parts and the task directory."""
    run = small_run(path, "seeds=[0]", *overrides)
    out = run.task(run.read_plan().tasks[0].id)
    return open_data(out.read_task(), out)[1], out


def written(out):
    (file,) = out.splits.iterdir()
    return file, json.loads(file.read_text())


def test_split_is_written_into_the_run_under_its_hash(tmp_path):
    parts, out = open_small(tmp_path / "run")
    file, manifest = written(out)
    assert manifest == parts.manifest
    assert file.name == f"{parts.sha256[:12]}.json"


def test_whole_formulas_are_split_off(tmp_path):
    parts, out = open_small(tmp_path / "run", "data.split={group: formula}")
    assert [len(index) for index in parts.indices.values()] == [3200, 400, 400]
    assert written(out)[1]["settings"]["group"] == "formula"


def change_shard(copy, change, **fields) -> None:
    """Change the only shard of a data set, and its manifest to match."""
    shard = copy / "shard-00000.h5"
    with h5py.File(shard, "a") as file:
        change(file)
    manifest = json.loads((copy / "manifest.json").read_text()) | fields
    manifest["shards"][0] |= {"bytes": shard.stat().st_size, "sha256": file_sha256(shard)}
    manifest["sha256"] = content_sha256(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))


def test_scaffolds_of_a_data_set_without_smiles_are_refused(tmp_path):
    copy = shutil.copytree(SAMPLE, tmp_path / "copy")
    change_shard(copy, lambda file: file.pop("graphs/smiles", None))
    data = f"data={{source: shards, path: {copy}, target: zpve, split: {{group: scaffold}}}}"
    with pytest.raises(InputError, match="data.split.group: scaffolds are made from SMILES"):
        open_small(tmp_path / "run", data)


def test_split_of_a_run_trains_to_the_same_losses(tmp_path):
    first = small_run(tmp_path / "first", "seeds=[0]")
    first = first.task(first.read_plan().tasks[0].id)
    run_task(first.path)
    again = small_run(tmp_path / "again", "seeds=[0]", f"data.split={{manifest: {written(first)[0]}}}")
    again = again.task(again.read_plan().tasks[0].id)
    run_task(again.path)
    assert again.metrics.read_text() == first.metrics.read_text()
    assert str(tmp_path) not in json.dumps(json.loads(again.fingerprint.read_text())["comparable"])


def test_published_split_of_a_data_set_with_missing_targets(tmp_path, capsys):
    with h5py.File(SAMPLE / "shard-00000.h5") as file:
        ids = [name.decode() for name in file["ids"][:6]]
    copy = shutil.copytree(SAMPLE, tmp_path / "copy")

    def lose_targets(file):
        file["targets/zpve"][[1, 5]] = np.nan

    published = {"train": ids[:3], "val": ids[3:4], "test": ids[4:]}
    change_shard(copy, lose_targets, splits={"leaderboard": published})
    data = f"data={{source: shards, path: {copy}, target: zpve, split: {{published: leaderboard}}}}"
    parts, out = open_small(tmp_path / "run", data)
    assert [index.tolist() for index in parts.indices.values()] == [[0, 2], [3], [4]]
    assert written(out)[1]["left_out_without_target"] == 2
    assert "2 of 6 graphs lack the target and are left out (1 of train, 1 of test)" in capsys.readouterr().out
