"""Training on several ranks, started as a user starts it, is the training of one with the same batches."""

import json
import os
import signal
import time

import pytest
import torch
from conftest import SMALL, hpc_kit, ledger_states, set_options, small_run, start_hpc_kit

from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import read_lines
from hpc_kit.task import run_task

RANKS = ["resources.cpus_per_rank=1", "resources.ranks_per_node=2"]
MODELS = [  # each with a rate at which plain steps do not diverge
    ("model={name: schnet, hidden: 16, filters: 16, interactions: 2, gaussians: 10}", "1e-5"),
    ("model={name: cgcnn, atom_features: 16, hidden: 16}", "1e-3"),
    ("model={name: alignn, alignn_layers: 1, gcn_layers: 1, hidden: 16, embedding: 8}", "1e-3"),
]
# Plain steps, so that rounding stays rounding: Adam turns it into a step where a gradient is nearly nothing.
STEPS = [
    "train.optimizer=sgd",
    "train.momentum=0",
    "train.accumulate=2",
    "train.epochs=2",
]


def one_task(path, *overrides):
    run = small_run(path, "seeds=[0]", *overrides)
    return run.task(run.read_plan().tasks[0].id)


@pytest.mark.parametrize(("model", "rate"), MODELS, ids=["schnet", "cgcnn", "alignn"])
def test_two_ranks_train_as_one_process_does(tmp_path, model, rate):
    steps = [*STEPS, f"train.learning_rate={rate}"]
    alone = one_task(tmp_path / "alone", model, *steps)
    run_task(alone.path)
    options = ["seeds=[0]", model, *steps, *RANKS]
    done = hpc_kit("run", "quickstart", *set_options([*SMALL, *options]), "--run", tmp_path / "two", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    two = RunDir(tmp_path / "two").task(alone.path.name)
    a, b = (read_lines(task.epochs) for task in (alone, two))
    for key in ("train_loss", "val_mae"):
        assert [line[key] for line in b] == pytest.approx([line[key] for line in a], rel=1e-4)
    assert [(line["graphs"], line["edges"]) for line in b] == [(line["graphs"], line["edges"]) for line in a]
    assert (a[0]["world_size"], b[0]["world_size"]) == (1, 2)
    for x, y in zip(*(torch.load(t.last, weights_only=True)["model"].values() for t in (alone, two)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    errors = [json.loads(task.metrics.read_text())["targets"]["zpve"]["test_mae"] for task in (alone, two)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


def test_preempted_ranks_are_started_again_and_end_as_if_nothing_had_been(tmp_path):
    options = [*SMALL, "seeds=[0]", "data.split.train=0.3", "train.epochs=6", *RANKS]
    arguments = ["submit", "--site", "local", "quickstart", *set_options(options), "--run"]
    driver = start_hpc_kit(*arguments, tmp_path / "cut", cwd=tmp_path)
    task = None
    deadline = time.monotonic() + 120
    while task is None or len(read_lines(task.epochs)) < 2:
        assert time.monotonic() < deadline and driver.poll() is None, (tmp_path / "driver.log").read_text()
        if (tmp_path / "cut" / "plan.json").exists():
            run = RunDir(tmp_path / "cut")
            task = run.task(run.read_plan().tasks[0].id)
        time.sleep(0.02)
    os.kill(task.read_process()["pid"], signal.SIGUSR1)
    assert driver.wait(120) == 0, (tmp_path / "driver.log").read_text()
    states = ledger_states(tmp_path / "cut")
    assert states == ["submitted", "started", "preempted", "submitted", "started", "done"]
    whole = hpc_kit(*arguments, tmp_path / "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout
    other = RunDir(tmp_path / "whole").task(task.path.name)
    assert [(x["train_loss"], x["val_mae"]) for x in read_lines(task.epochs)] == [
        (x["train_loss"], x["val_mae"]) for x in read_lines(other.epochs)
    ]
