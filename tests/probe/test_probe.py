"""Probes: they count on where they were stopped, measure what they are asked to, and say why they end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import hpc_kit, probe_run

from hpc_kit.report.summary import summarize
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.job import load_job
from hpc_kit.submit import drive
from hpc_kit.task import run_task


def test_a_probe_counts_to_its_end_and_measures_the_disk(tmp_path):
    run = probe_run(tmp_path / "run", "probe={steps: 3, step_s: 0, file_mb: 4}")
    (task,) = run.read_plan().tasks
    run_task(run.task(task.id).path)
    assert run.task(task.id).read_progress() == {"done": 3, "total": 3, "unit": "steps", "score": None}
    found = json.loads(run.task(task.id).metrics.read_text())
    assert found["write_mb_s"] > 0 and found["read_mb_s"] > 0 and found["allreduce_gb_s"] is None
    assert sorted(file.name for file in run.task(task.id).path.glob("*.bin")) == []


def test_a_stopped_probe_says_why_and_goes_on_where_it_was(tmp_path):
    run = probe_run(tmp_path / "run", "probe={steps: 60, step_s: 0.05}")
    task = run.task(run.read_plan().tasks[0].id)
    process = subprocess.Popen([sys.executable, "-m", "hpc_kit", "task", str(task.path)], stdout=subprocess.PIPE)
    while not task.read_progress():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 75
    done = task.read_progress()["done"]
    assert task.read_stopped()["cause"] == "preempted"
    assert f"{done} of 60 steps are done" in task.read_stopped()["text"]
    again = subprocess.run([sys.executable, "-m", "hpc_kit", "task", str(task.path)], capture_output=True, text=True)
    assert again.stdout.splitlines()[1] == f"step {done + 1}/60"
    assert task.is_done() and task.read_stopped() == {}


def test_the_end_of_the_time_is_a_cause_of_its_own(tmp_path):
    run = probe_run(tmp_path / "run", "probe={steps: 600, step_s: 0.05}")
    task = run.task(run.read_plan().tasks[0].id)
    deadline = {"HPC_KIT_DEADLINE": str(time.time() + 2)}
    done = subprocess.run([sys.executable, "-m", "hpc_kit", "task", str(task.path)], env=os.environ | deadline)
    assert done.returncode == 75
    assert task.read_stopped()["cause"] == "time_limit"


def test_a_probe_that_is_asked_to_fail_fails(tmp_path):
    run = probe_run(tmp_path / "run", "probe={steps: 1, step_s: 0, ends: failed}")
    with pytest.raises(WorkError, match="asked to fail"):
        run_task(run.task(run.read_plan().tasks[0].id).path)


def test_a_probe_over_two_ranks_sums_and_reports_its_waits(tmp_path):
    sets = ["probe={steps: 1, step_s: 0, allreduce_mb: 1}", "resources.ranks_per_node=2"]
    done = hpc_kit("run", "probe", "--run", "r", *(word for text in sets for word in ("--set", text)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "GB/s over 2 ranks" in done.stdout


def test_a_grid_varies_what_is_probed_and_nothing_else(tmp_path):
    run = probe_run(tmp_path / "run", "grid={probe.file_mb: [1, 2]}", "seeds=[0, 1]")
    assert len(run.read_plan().tasks) == 4
    with pytest.raises(InputError, match="cannot vary 'seeds': a grid varies keys under probe or resources"):
        load_job("probe", ["grid={seeds: [[1], [2]]}"])


def test_summary_of_what_has_not_run_shows_its_state(tmp_path):
    run = probe_run(tmp_path / "run")
    assert [row["state"] for row in summarize(run)["probes"]] == ["planned"]


def test_sites_check_probes_with_the_resources_of_a_job(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("name: j\ndata: {source: sample, target: zpve}\nresources: {gpus_per_rank: 0, cpus_per_rank: 1}\n")
    done = hpc_kit("sites", "check", "local", "--job", job, "--probe", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["probe"]["seen"].startswith("done: ")
    assert "for 1 ranks" in found["host"]["seen"]


def test_a_driver_removes_what_killed_writers_have_left(tmp_path):
    run = probe_run(tmp_path / "run", "probe={steps: 1, step_s: 0}")
    run.splits.mkdir()
    left = [run.path / ".plan.json.0123abcd.tmp", run.splits / ".x.json.0123abcd.tmp"]
    kept = run.splits / "x.json"
    for path in (*left, kept):
        path.write_text("half")
    (state,) = drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)
    assert state.state == "done" and not any(path.exists() for path in left) and kept.exists()
