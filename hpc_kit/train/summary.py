"""What the trainings of a run reached and where their time went, and the mean over seeds. The login side."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.status import TaskStatus
from hpc_kit.text import in_unit


class TargetErrors(Record):
    """What metrics.json says of one target, as far as it is read here."""

    unit: str
    test_mae: float | None
    baseline_mae: float | None


class Metrics(Record):
    """metrics.json, as far as it is read here."""

    targets: dict[str, TargetErrors]


@dataclass
class Row:
    """One task. `targets` is what metrics.json says of each target: its errors in its `unit`; `baseline_mae` is that
    of always guessing the training mean.

    `data_wait` is the share of training time spent waiting for batches, `graphs_per_s` all graphs over all
    training time; both and the median `epoch_s` leave the first epoch out where there are others. `charge` is the
    task's share of what the run has used, in the site's unit.
    """

    id: str
    label: str
    state: str
    targets: dict[str, dict[str, Any]]
    epoch_s: float | None
    data_wait: float | None
    graphs_per_s: float | None
    charge: float | None


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return the rows of all tasks and, for each cell of the grid with several seeds done, mean and deviation.

    `spent`: task -> its share of what the run has used, in the site's unit.
    """
    rows = [_row(run, task, states[task.id], spent.get(task.id)) for task in tasks]
    return {"tasks": [asdict(row) for row in rows], "seeds": _over_seeds(tasks, rows)}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a row a task.

    "guessing the mean" is the MAE of always predicting the training part's mean; s/epoch is the median.
    """
    rows = [Row(**fields) for fields in summary["tasks"]]
    table = Table()
    table.add_column("task", overflow="fold")
    table.add_column("state")
    charge = summary.get("charge")
    columns = (
        "test MAE",
        "guessing\nthe mean",
        "s/epoch",
        "data\nwait",
        "graphs/s",
        *([charge["unit"]] if charge else []),
    )
    for name in columns:
        table.add_column(name, justify="right", overflow="fold", min_width=max(map(len, name.split("\n"))))
    for row in rows:
        table.add_row(
            row.label,
            row.state,
            _each(row.targets, "test_mae"),
            _each(row.targets, "baseline_mae"),
            _number(row.epoch_s, "{:.2f}"),
            _number(row.data_wait, "{:.1%}"),
            _number(row.graphs_per_s, "{:.0f}"),
            *([_number(row.charge, "{:.3g}")] if charge else []),
        )
    for cell in summary["seeds"]:
        table.add_section()
        name = f"{cell['label']} {cell['n']} seeds".strip()
        spreads = _named({target: _spread(errors) for target, errors in cell["targets"].items()})
        table.add_row(name, "mean ± std", spreads, _each(cell["targets"], "baseline"))
    if rows:
        console.print(table)


def _row(run: RunDir, task: Task, status: TaskStatus, spent: float | None) -> Row:
    folder = run.task(task.id)
    metrics = folder.read_metrics(Metrics) if status.state == "done" else {}
    epochs = folder.read_epochs()
    steady = epochs[1:] or epochs
    wait, work = (sum(line[key] for line in steady) for key in ("data_wait_s", "compute_s"))
    walls = [line["wall_s"] for line in steady if line["wall_s"] is not None]
    return Row(
        id=task.id,
        label=task.label,
        state=status.state,
        targets=metrics.get("targets", {}),
        epoch_s=statistics.median(walls) if walls else None,
        data_wait=wait / (wait + work) if steady else None,
        graphs_per_s=sum(line["graphs"] for line in steady) / (wait + work) if steady else None,
        charge=spent,
    )


def _over_seeds(tasks: list[Task], rows: list[Row]) -> list[dict[str, Any]]:
    cells: dict[str, list[Row]] = {}
    for task, row in zip(tasks, rows, strict=True):
        if row.targets and all(target["test_mae"] is not None for target in row.targets.values()):
            cells.setdefault(task.setting, []).append(row)
    return [
        {
            "label": label,
            "n": len(done),
            "targets": {name: _mean_and_std([row.targets[name] for row in done]) for name in done[0].targets},
        }
        for label, done in cells.items()
        if len(done) > 1
    ]


def _mean_and_std(found: list[dict[str, Any]]) -> dict[str, Any]:
    maes = [errors["test_mae"] for errors in found]
    baseline = statistics.mean(errors["baseline_mae"] for errors in found)
    return {
        "unit": found[0]["unit"],
        "mean": statistics.mean(maes),
        "std": statistics.stdev(maes),
        "baseline": baseline,
    }


def _each(targets: dict[str, dict[str, Any]], key: str) -> str:
    """Return the value of each target in its unit, on a line of its own, named where there are several."""
    return _named({name: in_unit(errors[key], errors["unit"]) for name, errors in targets.items()})


def _named(texts: dict[str, str]) -> str:
    return "\n".join(f"{name} {text}" if len(texts) > 1 else text for name, text in texts.items()) or "-"


def _spread(target: dict[str, Any]) -> str:
    return (
        f"{in_unit(target['mean'], target['unit'], '.4g', False)} ± {in_unit(target['std'], target['unit'], '.2g')}"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
