"""Runs whose tasks look finished, with epochs that take given times under given conditions."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conftest import SMALL

from hpc_kit.files import append_lines, write_json
from hpc_kit.plan import make_plan
from hpc_kit.runs import fingerprint
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site

WORK = {"device": "cpu", "world_size": 1, "loader": "in memory", "clock": "time.perf_counter"}
HERE = fingerprint.collect(WORK, {"torch": "2.13.0", "torch_threads": 1})
SETS = [*SMALL, "resources={gpus_per_rank: 0, cpus_per_rank: 1}"]
PARTS = {"data_wait_s": 0.01, "eval_s": 0.02, "checkpoint_s": 0.01}


def conditions(**fields: Any) -> dict[str, Any]:
    """Return this machine's fingerprint with other fields of its comparable part: cpu__model="..."."""
    content = copy.deepcopy(HERE)
    for name, value in fields.items():
        part, key = name.split("__")
        content["comparable"][part][key] = value
    content["sha256"] = fingerprint.comparable_sha256(content["comparable"])
    return content


def timed_run(
    path: Path,
    walls: Callable[[Any], Sequence[float] | None],
    *overrides: str,
    where: dict[str, Any] = HERE,
    **more: Any,
) -> RunDir:
    """Make a run of the small quickstart job. `walls(task)` gives the seconds of a task's epochs, the first of them
    the warm-up; None leaves the task undone. `more` is put into each line of epochs.jsonl."""
    file = load_job("quickstart", [*SETS, *overrides])
    plan = make_plan(file)
    run = create_run(path, plan, file.job, load_site("local"))
    for task in plan.tasks:
        seconds, folder = walls(task), run.task(task.id)
        if seconds is None:
            continue
        lines = []
        for number, wall in enumerate(seconds):
            computed = {"compute_s": wall - sum(PARTS.values()), "cpu_s": wall}
            counts = {"graphs": 80, "graphs_per_s": 80 / wall, "world_size": 1, "peak_gpu_mb": None}
            placed = {"epoch": number, "started_at": 1e9 + 10 * number, "fingerprint": where["sha256"]}
            lines.append({**placed, "wall_s": wall, **PARTS, **computed, **counts, "val_mae": 0.1, **more})
        append_lines(folder.epochs, lines)
        write_json(folder.fingerprint, where)
        errors = {"unit": "eV", "test_mae": 0.1, "test_rmse": 0.2, "test_r2": 0.9, "baseline_mae": 0.6}
        write_json(folder.metrics, {"targets": {"zpve": errors}, "graphs": {"train": 80}, "split_sha256": "0" * 64})
        folder.write_done(task.schema_version)
    return run
