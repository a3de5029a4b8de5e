"""Runs of searches whose trials are written by hand."""

from collections.abc import Sequence

import numpy as np

from hpc_kit.files import append_lines
from hpc_kit.plan import SCHEMA, Plan, make_plan
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir
from hpc_kit.search.records import trials_file
from hpc_kit.search.trials import trial_job, trial_task
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site

JOB = """
name: made
kind: search
data: {source: sample, target: zpve, split: {train: 0.03, val: 0.01, test: 0.01, seed: 7}}
model: {name: schnet, hidden: 16, filters: 16, interactions: 2, gaussians: 10}
train: {epochs: 2, batch_size: 16}
search:
  trials: 40
  initial: 5
  space:
    train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
    train.batch_size: {low: 8, high: 64}
    train.optimizer: [adam, sgd]
resources: {nodes: 1, ranks_per_node: 2, gpus_per_rank: 0, cpus_per_rank: 1}
"""


def search_run(path, *overrides: str) -> RunDir:
    """Make a run of searches without any trials."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "made.yaml").write_text(JOB)
    file = load_job(str(path / "made.yaml"), overrides)
    return create_run(path / "run", make_plan(file), file.job, load_site("local"))


def add_trials(run: RunDir, count: int, optimum: float = 1e-2, fail: Sequence[int] = ()) -> None:
    """Write `count` trials into each search: the error, in eV, is 10 meV at the rate `optimum` and ten times that a
    decade away, 1.5 times with sgd."""
    for place, task in enumerate(run.read_plan().tasks):
        random, folder = np.random.default_rng(place), run.task(task.id)
        lines, trials, now = [{"time": 1000.0, "event": "manager", "attempt": 1}], [], 1000.0
        for number in range(count):
            values = {
                "train.learning_rate": float(10 ** random.uniform(-4, -1)),
                "train.batch_size": int(random.integers(8, 65)),
                "train.optimizer": str(random.choice(["adam", "sgd"])),
            }
            trials.append(trial_task(task, values))
            error = 0.010 * 10 ** abs(np.log10(values["train.learning_rate"] / optimum))
            error *= 1.5 if values["train.optimizer"] == "sgd" else 1.0
            well = {"error": float(error), "epoch_s": values["train.batch_size"] / 100}
            ended = {"state": "done", "reason": "", "objectives": well, "epochs": 2}
            if number in fail:
                reason = "not finite: the loss of epoch 1 is nan"
                ended = {"state": "failed", "reason": reason, "objectives": None, "epochs": 1}
            asked = {"id": trials[-1].id, "values": values, "by": task.work.search.strategy}
            for event, fields in (
                ("asked", asked),
                ("started", {"worker": 1, "host": "node1", "attempt": 1}),
                ("ended", ended),
            ):
                now += 1.0
                lines.append({"time": now, "number": number, "event": event, **fields})
        append_lines(trials_file(folder.path), lines)
        plan = Plan(schema_version=SCHEMA, name="trials", tasks=trials)
        create_run(folder.path / "trials", plan, trial_job(task), run.read_site())
