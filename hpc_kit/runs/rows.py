"""A run's records as tidy rows: one a task, an epoch, an error, a structure, an atom. For tables of any kind."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.spec.errors import InputError

Row = dict[str, Any]


def task_rows(run: RunDir, plan: Plan) -> Iterator[Row]:
    """Yield a row a task: its state and how far it has come; score in score_unit."""
    for task, status in zip(plan.tasks, read_statuses(run), strict=True):
        score = status.score or {}
        yield _head(task) | {
            "label": task.label,
            "kind": task.kind,
            "state": status.state,
            "attempt": status.attempt,
            "done": status.done,
            "total": status.total,
            "unit": status.unit,
            "score": score.get("value"),
            "score_name": score.get("name"),
            "score_unit": score.get("unit"),
            "reason": status.reason,
        }


def epoch_rows(run: RunDir, plan: Plan) -> Iterator[Row]:
    """Yield a row an epoch: the fields of epochs.jsonl (docs/records.md)."""
    for task in plan.tasks:
        for line in run.task(task.id).read_epochs():
            maes = {f"val_mae_{name}": value for name, value in line.pop("val_maes", {}).items()}
            yield _head(task) | line | maes


def metric_rows(run: RunDir, plan: Plan) -> Iterator[Row]:
    """Yield a row a target of each finished task: its errors on the test part, in `unit`."""
    for task, targets in _tested(run, plan):
        for name, errors in targets.items():
            yield _head(task) | {"target": name, **errors}


@dataclass(frozen=True)
class Column:
    """What one finished task predicts of one target: for each structure of the test part its identifier, true and
    predicted value, [n] each, in `unit`."""

    task: Task
    target: str
    unit: str
    ids: list[str]
    true: np.ndarray
    predicted: np.ndarray


def predictions(run: RunDir, plan: Plan) -> Iterator[Column]:
    """Yield what each finished task predicts of each target. Raises InputError where a file cannot be read."""
    for task, targets in _tested(run, plan):
        with _predictions(run, task) as file:
            ids = [id.decode() for id in file["ids"][:]]
            for name in (name for name in targets if name != "forces"):
                truth, predicted = file["targets"][name], file["predictions"][name]
                yield Column(task, name, predicted.attrs["unit"], ids, truth[:], predicted[:])


def prediction_rows(run: RunDir, plan: Plan) -> Iterator[Row]:
    """Yield a row a structure of the test part and target of each finished task: its true value and the predicted
    one, in `unit`."""
    for found in predictions(run, plan):
        head = _head(found.task) | {"target": found.target, "unit": found.unit}
        for id, true, value in zip(found.ids, found.true.tolist(), found.predicted.tolist(), strict=True):
            yield head | {"id": id, "true": true, "predicted": value}


def force_rows(run: RunDir, plan: Plan) -> Iterator[Row]:
    """Yield a row an atom of the test part of each finished task that predicts forces, in eV/Angstrom; the atoms of a
    structure count from 0."""
    for task, targets in _tested(run, plan):
        if "forces" not in targets:
            continue
        with _predictions(run, task) as file:
            ends, z = file["atom_ptr"][:].tolist(), file["z"][:].tolist()
            truth, predicted = file["targets/forces"][:].tolist(), file["predictions/forces"][:].tolist()
            for id, start, end in zip(file["ids"][:], ends, ends[1:], strict=False):
                for row in range(start, end):
                    axes = {f"true_{axis}": value for axis, value in zip("xyz", truth[row], strict=True)}
                    axes |= {f"predicted_{axis}": value for axis, value in zip("xyz", predicted[row], strict=True)}
                    yield _head(task) | {"id": id.decode(), "atom": row - start, "z": z[row]} | axes


TABLES = {
    "tasks": task_rows,
    "epochs": epoch_rows,
    "metrics": metric_rows,
    "predictions": prediction_rows,
    "forces": force_rows,
}


def _tested(run: RunDir, plan: Plan) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yield each finished task that was tested, and what metrics.json says of its targets."""
    for task in plan.tasks:
        folder = run.task(task.id)
        if folder.is_done():
            targets = folder.read_metrics(dict[str, Any]).get("targets")
            if targets:
                yield task, targets


def _predictions(run: RunDir, task: Task) -> h5py.File:
    path = run.task(task.id).predictions
    run.task(task.id).verify(path)
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _head(task: Task) -> Row:
    """Return what every row begins with: the task's id, the values of the job's grid that it has, and its seed."""
    return {"task": task.id, **{key: _plain(value) for key, value in task.cell.items()}, "seed": task.seed}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
