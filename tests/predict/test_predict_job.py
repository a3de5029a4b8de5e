"""Jobs of kind "predict": parts that a restart keeps, the records of any kind, and the same numbers on more ranks."""

import json
import shutil
import time

import h5py
import numpy as np
import pytest
from conftest import hpc_kit

from hpc_kit.plan import make_plan
from hpc_kit.predict.predictor import Predictor
from hpc_kit.report.page import page
from hpc_kit.report.summary import summarize
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.spec.errors import InputError, Preempted
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.task import run_task
from hpc_kit.text import in_unit

JOB = """
name: numbers
kind: predict
predict: {model: MODEL, input: INPUT, piece: 5}
resources: {gpus_per_rank: 0, cpus_per_rank: 1}
"""


@pytest.fixture
def job(tmp_path, energy_run):
    """Write the job file that predicts molecules of a file, seven pieces of them, and return its path."""
    import ase.io
    from ase.build import molecule
    from some_graphs import rattled

    frames = [rattled(molecule("CH3CH2OH"), seed) for seed in range(32)]
    frames[7] = molecule("SO2")
    ase.io.write(tmp_path / "m.extxyz", frames)
    path = tmp_path / "numbers.yaml"
    text = JOB.replace("MODEL", str(energy_run.path)).replace("INPUT", str(tmp_path / "m.extxyz"))
    path.write_text(text)
    return path


def planned(job, path, *overrides: str) -> TaskDir:
    file = load_job(str(job), overrides)
    run = create_run(path, make_plan(file), file.job, load_site("local"))
    return run.task(run.read_plan().tasks[0].id)


def values_of(task: TaskDir) -> dict[str, float]:
    found = {}
    for part in json.loads(task.metrics.read_text())["parts"]:
        with h5py.File(task.parts / part["file"]) as file:
            found |= dict(zip(file["ids"].asstr()[:], file["predictions/energy"][:], strict=True))
    return found


def test_parts_hold_what_the_predictor_says(job, tmp_path, energy_run):
    task = planned(job, tmp_path / "run")
    run_task(task.path)
    found = Predictor.load(energy_run.path).predict(tmp_path / "m.extxyz")
    values = values_of(task)
    assert list(values) == found.ids
    np.testing.assert_allclose(list(values.values()), found["energy"], rtol=1e-6)
    assert task.read_progress() == {"done": 31, "total": 31, "unit": "structures", "score": None}
    metrics = json.loads(task.metrics.read_text())
    assert (metrics["structures"], metrics["rejected"], metrics["models"]) == (31, 1, 2)
    assert [part["structures"] for part in metrics["parts"]] == [5, 4, 5, 5, 5, 5, 2]
    assert "holds S" in (task.path / "rejects.jsonl").read_text()
    assert read_statuses(task.run)[0].state == "done"
    assert summarize(task.run)["predictions"][0]["structures"] == 31


def test_finished_parts_are_kept_and_spoiled_ones_made_anew(job, tmp_path):
    task = planned(job, tmp_path / "run")
    run_task(task.path)
    before = values_of(task)
    files = sorted(task.parts.glob("*.h5"))
    kept = [file.stat().st_mtime_ns for file in files]
    task.done.unlink()
    files[1].unlink()
    files[3].write_bytes(files[3].read_bytes()[:-1])
    shutil.copy(files[4].with_suffix(".json"), files[5].with_suffix(".json"))
    run_task(task.path)
    anew = [a != b.stat().st_mtime_ns for a, b in zip(kept, files, strict=True)]
    assert anew == [False, True, False, True, False, True, False] and values_of(task) == before


def test_end_of_the_time_is_told_and_the_next_attempt_goes_on(job, tmp_path, monkeypatch):
    task = planned(job, tmp_path / "run")
    with monkeypatch.context() as late:
        late.setenv("HPC_KIT_DEADLINE", str(time.time()))
        with pytest.raises(Preempted, match="0 parts with 0 structures are done"):
            run_task(task.path)
    assert task.read_stopped()["cause"] == "time_limit" and not task.is_done()
    run_task(task.path)
    assert task.is_done() and not task.stopped.exists()


def test_two_ranks_make_the_parts_of_one(job, tmp_path, energy_run):
    alone = planned(job, tmp_path / "alone")
    run_task(alone.path)
    out = hpc_kit("run", job, "--set", "resources.ranks_per_node=2", "--run", tmp_path / "two", cwd=tmp_path)
    assert out.returncode == 0, out.stdout + out.stderr
    two = RunDir(tmp_path / "two").task(alone.path.name)
    assert list(values_of(two)) == list(values_of(alone))
    np.testing.assert_allclose(list(values_of(two).values()), list(values_of(alone).values()), rtol=1e-6)
    assert "31 structures in 7 parts, 1 rejected" in " ".join(out.stdout.split())


def test_shard_set_is_predicted_a_shard_a_part_with_its_errors(job, tmp_path, energy_run):
    dataset = energy_run.read_plan().tasks[0].work.dataset
    task = planned(job, tmp_path / "run", f"predict.input={dataset}", "predict.ending=jsonl")
    assert task.read_task().work.amount() == (24, "structures")
    run_task(task.path)
    found = Predictor.load(energy_run.path).predict(dataset)
    errors = json.loads(task.metrics.read_text())["targets"]
    assert errors["energy"]["mae"] == pytest.approx(np.abs(found.values - found.truth).mean(), rel=1e-6)
    assert errors["forces"]["n"] == 3 * len(found.arrays.z)
    spread = np.square(found.truth - found.truth.mean()).sum()
    r2 = 1 - np.square(found.values - found.truth).sum() / spread
    assert errors["energy"]["r2"] == pytest.approx(r2, rel=1e-6)
    shown = page(task.run)
    assert "24 structures in 1 parts" in shown and f"{in_unit(errors['energy']['mae'], 'eV')}" in shown


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("predict.model=gone", "predict.model: .*gone: no such run, task or best.pt"),
        ("predict.input=gone", "predict.input: .*gone: no such file or folder"),
        ("predict.ending=pdf", "predict.ending: "),
        ("seeds=[0, 1]", "a job of kind 'predict' is one task"),
    ],
)
def test_job_that_cannot_be_done_is_refused_at_submission(job, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        planned(job, tmp_path / "run", override)


def test_weights_that_changed_since_planning_are_refused(job, tmp_path, energy_run):
    shutil.copytree(energy_run.path, tmp_path / "copy")
    task = planned(job, tmp_path / "run", f"predict.model={tmp_path / 'copy'}")
    best = next((tmp_path / "copy").glob("tasks/*/best.pt"))
    best.write_bytes(best.read_bytes() + b"x")
    with pytest.raises(InputError, match="best.pt: changed since this task was planned; submit the job anew"):
        run_task(task.path)
