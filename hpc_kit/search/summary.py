"""What came of the searches of a run. The login side."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import TaskStatus
from hpc_kit.search.records import read_trials
from hpc_kit.text import in_unit


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return the best trial of each search."""
    rows = []
    for task in tasks:
        trials = [trial for trial in read_trials(run.task(task.id).path) if trial.error is not None]
        best = min(trials, key=lambda trial: trial.error, default=None)
        row = {"id": task.id, "label": task.label, "state": states[task.id].state, "trials": len(trials)}
        rows.append(row | {"best": best and best.id, "error": best and best.error, "unit": task.work.unit})
    return {"searches": rows}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a row a search."""
    table = Table("search", "state", "trials", "best error", "of")
    for row in summary["searches"]:
        error = "-" if row["error"] is None else in_unit(row["error"], row["unit"])
        table.add_row(row["label"], row["state"], str(row["trials"]), error, row["best"] or "-")
    console.print(table)
