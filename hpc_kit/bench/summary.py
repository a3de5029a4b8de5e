"""What the timed epochs of a run came to. The login side."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.status import TaskStatus


class Metrics(Record):
    """metrics.json of a benchmark, as far as it is read here. `interval` is that of the median, null where there are
    too few epochs for one."""

    median_epoch_s: float
    interval: list[float] | None
    width: float | None
    epochs: int
    cache: str
    unfit: list[str]
    graphs_per_s: float


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return a row a task: what metrics.json says of those that are done."""
    rows = []
    for task in tasks:
        row = {"id": task.id, "label": task.label, "state": states[task.id].state, "charge": spent.get(task.id)}
        if row["state"] == "done":
            row |= run.task(task.id).read_metrics(Metrics)
        rows.append(row)
    return {"benchmarks": rows}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a row a task."""
    table = Table("task", "state", "median epoch", "95 % interval", "epochs", "graphs/s", "fit")
    for row in summary["benchmarks"]:
        if row["state"] != "done":
            table.add_row(row["label"], row["state"])
            continue
        interval = "{:.4g} to {:.4g} s".format(*row["interval"]) if row["interval"] else "too few epochs"
        fit = "; ".join(row["unfit"]) or "yes"
        seconds, speed = f"{row['median_epoch_s']:.4g} s", f"{row['graphs_per_s']:.4g}"
        table.add_row(row["label"], "done", seconds, interval, str(row["epochs"]), speed, fit)
    console.print(table)
