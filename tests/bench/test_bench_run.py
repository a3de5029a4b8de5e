"""Timed epochs, run as a user runs them: how many, what is recorded of each, and what becomes of them."""

import json

from conftest import hpc_kit, set_options

from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import read_lines

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
    assert "its budget of 00:00:01 ended before benchmark.min_epochs (8) were timed" in done.stdout + done.stderr
    assert len(lines) < 40
