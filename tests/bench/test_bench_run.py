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
]


def test_a_benchmark_times_its_epochs_after_the_warm_up(tmp_path):
    options = [*TINY, "seeds=[0]"]
    done = hpc_kit("run", "benchmark-sample", *set_options(options), "--run", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunDir(tmp_path / "run")
    [task] = run.read_plan().tasks
    lines = read_lines(run.task(task.id).epochs)
    metrics = json.loads(run.task(task.id).metrics.read_text())
    counted = sorted(line["wall_s"] for line in lines[1:])
    assert (len(lines), metrics["epochs"], metrics["warmup_epochs"]) == (9, 8, 1)
    assert metrics["median_epoch_s"] == (counted[3] + counted[4]) / 2
    assert metrics["interval"] == [counted[0], counted[7]]
