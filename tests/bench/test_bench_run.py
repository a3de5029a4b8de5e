"""Timed epochs, run as a user runs them: how many, what is recorded of each, and what becomes of them."""

import json
import signal
import time

from conftest import hpc_kit, set_options, start_hpc_kit

from hpc_kit.plan import make_plan
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import read_lines
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site

TINY = [
    "data.split={train: 0.02, val: 0.01, test: 0.01, seed: 0}",
    "model={name: schnet, hidden: 16, filters: 16, interactions: 2, gaussians: 10}",
    "train={batch_size: 16, learning_rate: 1e-3}",
    "benchmark={warmup_epochs: 1, min_epochs: 8, max_epochs: 8}",
    "seeds=[0]",
]
PHASES = "data_wait_s transfer_s forward_s backward_s optimizer_s all_reduce_s evaluation_s checkpoint_s".split()


def benchmark(folder, *overrides):
    """Run a small one to its end, as a user does; return what the command printed, its epochs and its metrics."""
    done = hpc_kit("run", "benchmark-sample", *set_options([*TINY, *overrides]), "--run", folder / "run", cwd=folder)
    run = RunDir(folder / "run")
    [task] = run.read_plan().tasks
    metrics = run.task(task.id).metrics
    return done, read_lines(run.task(task.id).epochs), json.loads(metrics.read_text()) if metrics.exists() else None


def test_a_benchmark_times_its_epochs_after_the_warm_up(tmp_path):
    done, lines, metrics = benchmark(tmp_path, "benchmark.cache=cold")
    assert done.returncode == 0, done.stdout + done.stderr
    counted = sorted(line["wall_s"] for line in lines if not line["warmup"])
    assert [line["warmup"] for line in lines] == [True, *[False] * 8]
    assert (metrics["epochs"], metrics["warmup_epochs"], metrics["cache"]) == (8, 1, "cold")
    assert metrics["median_epoch_s"] == (counted[3] + counted[4]) / 2
    assert metrics["interval"] == [counted[0], counted[7]]
    fingerprint = json.loads(next(tmp_path.glob("run/tasks/*/fingerprint.json")).read_text())
    assert fingerprint["comparable"]["work"]["warm_up_epochs"] == 1
    for line in lines:
        phases = line["phases"]
        assert list(phases) == PHASES and phases["all_reduce_s"] is None
        measured = sum(phases[part] for part in PHASES if part != "all_reduce_s")
        assert 0.5 * line["wall_s"] < measured <= line["wall_s"]
        assert line["others_cpu_s"] >= 0.0 and set(line["energy_j"]) == {"gpu", "cpu"}


def test_two_ranks_begin_together_and_their_sums_are_timed(tmp_path):
    over = ["resources.ranks_per_node=2", "benchmark={warmup_epochs: 0, min_epochs: 4, max_epochs: 4}"]
    done, lines, metrics = benchmark(tmp_path, *over, "benchmark.measure_overhead=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert metrics["interval"] is None and metrics["overhead"]["pairs"] == 2
    assert [line["phases"] is None for line in lines] == [False, True, False, True]
    for line in lines:
        fastest, slowest = line["rank_wall_s"]
        assert 0.0 < fastest <= slowest == line["wall_s"]
    assert 0.0 < lines[0]["phases"]["all_reduce_s"] < lines[0]["wall_s"]


def test_a_budget_that_ends_in_the_warm_up_is_an_error_that_says_so(tmp_path):
    budget = "benchmark={warmup_epochs: 40, min_epochs: 8, max_epochs: 8, budget: '00:00:01'}"
    done, lines, metrics = benchmark(tmp_path, budget, "data.split.train=0.2")
    assert done.returncode == 1 and metrics is None
    said = " ".join((done.stdout + done.stderr).split())
    assert "its budget of 00:00:01" in said and "ended before benchmark.min_epochs (8) were timed" in said
    assert len(lines) < 40


def test_a_benchmark_that_was_stopped_warms_up_again_and_goes_on(tmp_path):
    file = load_job("benchmark-sample", [*TINY, "benchmark.max_epochs=40", "benchmark.width=0.001"])
    run = create_run(tmp_path / "run", make_plan(file), file.job, load_site("local"))
    [task] = (run.task(task.id) for task in run.read_plan().tasks)
    process = start_hpc_kit("task", task.path, cwd=tmp_path)
    deadline = time.monotonic() + 90
    while len(read_lines(task.epochs)) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.wait(60)
    before = read_lines(task.epochs)
    assert 4 <= len(before) < 41 and not task.metrics.exists()
    done = hpc_kit("task", task.path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_lines(task.epochs)
    assert lines[: len(before)] == before and lines[len(before)]["warmup"] and not lines[-1]["warmup"]
    metrics = json.loads(task.metrics.read_text())
    assert metrics["epochs"] + metrics["warmup_epochs"] == len(lines) == 41
