"""Timings and errors of a run in forms that others read: MLPerf's log lines, and a record as Matbench keeps them.

The folder of JARVIS-Leaderboard is written by report/leaderboard.py.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc_kit import __version__
from hpc_kit.bench.configurations import read_conditions
from hpc_kit.files import make_folder, write_atomically, write_json
from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.spec.errors import InputError

START, END, POINT = "INTERVAL_START", "INTERVAL_END", "POINT_IN_TIME"


def write_mlperf(run: RunDir, folder: Path, force: bool) -> list[Path]:
    """Write a log of each finished task in the lines of MLPerf's mlperf_logging (:::MLLOG and JSON), made of its
    records. Return the files.

    Times are those of the records. It is no submission: MLPerf's rules for one (its models, data and goals) are not
    these jobs'. Raises InputError where no task is done, or where a file is there and `force` is not given.
    """
    tasks = _done(run)
    files = {folder / f"{task.id}.log": task for task in tasks}
    make_folder(folder, files, force)
    for path, task in files.items():
        lines = "".join(f":::MLLOG {json.dumps(event)}\n" for event in mlperf_events(run.task(task.id), task))
        write_atomically(path, lines.encode())
    return list(files)


def mlperf_events(folder: TaskDir, task: Task) -> Iterator[dict[str, Any]]:
    """Yield the events of one task in the order of their times; time_ms is whole milliseconds since 1970."""
    lines = folder.read_epochs()
    lines = [line for line in lines if line["wall_s"] is not None]
    settings, device = task.work.train, "GPU" if task.resources.gpus_per_rank else "CPU"
    begin = lines[0]["started_at"] if lines else 0.0
    end = max((line["started_at"] + line["wall_s"] for line in lines), default=begin)
    ranks = task.resources.nodes * task.resources.ranks_per_node
    for key, value in (
        ("submission_benchmark", f"{task.work.model.name} {', '.join(task.work.data.target)}"),
        ("submission_platform", f"{task.resources.nodes} nodes, {ranks} ranks, {device}"),
        ("submission_status", "research"),
        ("seed", task.seed),
        ("global_batch_size", settings.batch_size),
        ("opt_name", settings.optimizer),
        ("opt_base_learning_rate", settings.learning_rate),
        ("gradient_accumulation_steps", settings.accumulate),
    ):
        yield _event(begin, POINT, key, value)
    yield _event(begin, START, "run_start", None)
    for line in lines:
        number, start = {"epoch_num": line["epoch"]}, line["started_at"]
        evaluated = start + line["data_wait_s"] + line["compute_s"]
        yield _event(start, START, "epoch_start", None, number)
        yield _event(evaluated, START, "eval_start", None, number)
        yield _event(evaluated, POINT, "eval_error", line.get("val_mae"), number)
        yield _event(evaluated + line["eval_s"], END, "eval_stop", None, number)
        throughput = {"throughput": line["graphs_per_s"]}
        yield _event(start + line["wall_s"], POINT, "tracked_stats", throughput, number)
        yield _event(start + line["wall_s"], END, "epoch_stop", None, number)
    yield _event(end, END, "run_stop", None, {"status": "success"})


def _event(seconds: float, kind: str, key: str, value: Any, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    told = {"namespace": "", "time_ms": round(seconds * 1000), "event_type": kind, "key": key, "value": value}
    return told | {"metadata": metadata or {}}


def write_matbench(run: RunDir, folder: Path, force: bool) -> list[Path]:
    """Write record.json: what Matbench's info.json and results hold of a run (algorithm, requirements, parameters and
    scores of each task and seed), with the hardware and the hours that it took. Return the file.

    The tasks are the run's own, not Matbench's, whose folds are fixed. Raises InputError as write_mlperf does.
    """
    tasks, plan, path = _done(run), run.read_plan(), folder / "record.json"
    make_folder(folder, [path], force)
    write_json(path, _record(run, plan, tasks))
    return [path]


def _record(run: RunDir, plan: Plan, tasks: list[Task]) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}
    requirements, models = {f"hpc_kit=={__version__}"}, dict.fromkeys(task.work.model.name for task in tasks)
    for task in tasks:
        folder = run.task(task.id)
        metrics = folder.read_metrics(dict[str, Any])
        conditions = read_conditions(folder)["comparable"]
        torch = conditions["software"].get("torch")
        requirements |= {f"torch=={torch}"} if torch else set()
        setting = results.setdefault(task.setting or plan.name, {"results": {}})
        setting["results"][f"seed_{task.seed}"] = {
            "parameters": {key: task.work.content()[key] for key in ("model", "train")},
            "dataset_sha256": task.work.dataset_sha256,
            "split_sha256": metrics.get("split_sha256"),
            "graphs": metrics.get("graphs"),
            "scores": {name: _scores(errors) for name, errors in metrics.get("targets", {}).items()},
            "median_epoch_s": metrics.get("median_epoch_s"),
            "hardware": _hardware(task, conditions),
            "hours": _hours(folder, task),
        }
    every = [seed["hours"] for setting in results.values() for seed in setting["results"].values()]
    return {
        "schema_version": 1,
        "written_at": time.time(),
        "algorithm": ", ".join(models),
        "algorithm_long": f"job {plan.name} of hpc_kit: {', '.join(models)}",
        "requirements": {"python": sorted(requirements)},
        "tasks": results,
        "hours": {key: sum(one[key] for one in every) for key in ("wall", "core", "gpu")},
    }


def _scores(errors: dict[str, Any]) -> dict[str, Any]:
    return {"unit": errors["unit"], **{key: errors.get(f"test_{key}") for key in ("mae", "rmse", "r2")}}


def _hardware(task: Task, conditions: dict[str, Any]) -> dict[str, Any]:
    resources = task.resources
    ranks = resources.nodes * resources.ranks_per_node
    return {
        "cpu": conditions["cpu"].get("model"),
        "gpus": sorted({gpu["name"] for gpu in conditions["gpus"] if gpu.get("name")})
        if resources.gpus_per_rank
        else [],
        "nodes": resources.nodes,
        "ranks": ranks,
        "cores": ranks * resources.cpus_per_rank,
        "gpus_used": ranks * resources.gpus_per_rank,
    }


def _hours(folder: TaskDir, task: Task) -> dict[str, float]:
    """Return the hours of all epochs: of the clock, and of all cores and GPUs that the task had."""
    wall = sum(line["wall_s"] or 0.0 for line in folder.read_epochs()) / 3600
    ranks = task.resources.nodes * task.resources.ranks_per_node
    return {
        "wall": wall,
        "core": wall * ranks * task.resources.cpus_per_rank,
        "gpu": wall * ranks * task.resources.gpus_per_rank,
    }


def _done(run: RunDir) -> list[Task]:
    """Return the finished tasks of a run that have epochs. Raises InputError where there are none."""
    plan = run.read_plan()
    if not {"data", "model", "train"} <= type(plan.tasks[0].work).model_fields.keys():
        raise InputError(f"{run.path}: is of kind {plan.kind!r}, which trains nothing")
    done = [task for task in plan.tasks if run.task(task.id).is_done()]
    if not done:
        raise InputError(f"{run.path}: has no finished task")
    return done
