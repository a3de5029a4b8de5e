"""What the timed epochs of a run came to, and how they scale. The login side."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.bench.metrics import counted
from hpc_kit.bench.scaling import Series, scaling
from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.status import TaskStatus
from hpc_kit.sites.policy import hourly_charge, plan_blocks
from hpc_kit.spec.job import Resources


class Metrics(Record):
    """metrics.json of a benchmark, as far as it is read here. `interval` is that of the median, null where there are
    too few epochs for one; `phases` null where none was measured."""

    median_epoch_s: float
    interval: list[float] | None
    width: float | None
    ended_by: str
    epochs: int
    cache: str
    unfit: list[str]
    graphs_per_s: float
    phases: dict[str, float | None] | None
    energy_j: dict[str, float | str]


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return a row a task, what metrics.json says of those that are done; and the scaling where resources vary."""
    rows, epochs = [], []
    for task in tasks:
        status = states[task.id]
        row = {"id": task.id, "label": task.label, "setting": task.setting, "state": status.state}
        row |= {"why": status.reason, "charge": spent.get(task.id)}
        lines = []
        if row["state"] == "done":
            row |= run.task(task.id).read_metrics(Metrics)
            lines = counted(run.task(task.id).read_epochs())
        rows.append(row)
        epochs.append([line["wall_s"] for line in lines])
    return {"benchmarks": rows, "scaling": [asdict(series) for series in scaling(tasks, rows, epochs, _hourly(run))]}


def _hourly(run: RunDir) -> Callable[[Resources], float | None]:
    """Return what gives the charge of an hour of one task's resources on the run's site."""
    site = run.read_site()

    def charge(resources: Resources) -> float | None:
        if site.charge is None:
            return None
        block = plan_blocks(site, resources, 1)
        return hourly_charge(site, block) / block.slots

    return charge


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a row a task, why some are unfit, and how the sizes scale."""
    table = Table()
    for name in ("task", "state", "median epoch", "95 % interval", "epochs", "graphs/s", "cache", "fit"):
        table.add_column(name, overflow="fold")
    unfit: dict[str, list[str]] = {}
    for row in summary["benchmarks"]:
        if row["state"] != "done":
            table.add_row(row["label"], row["state"])
            continue
        if row["unfit"]:
            unfit[row["label"]] = row["unfit"]
        seconds, speed = f"{row['median_epoch_s']:.4g} s", f"{row['graphs_per_s']:.4g}"
        fit = "no" if row["unfit"] else "yes"
        epochs = str(row["epochs"])
        table.add_row(row["label"], "done", seconds, spread(row), epochs, speed, row["cache"], fit)
    console.print(table)
    for label, found in unfit.items():
        console.print(f"unfit: {label}: {'; '.join(found)}", soft_wrap=True, highlight=False)
    for fields in summary["scaling"]:
        _print_series(Series(**fields), summary.get("charge"), console)


def spread(row: dict[str, Any]) -> str:
    """Return the interval of a median in words, with its width."""
    if not row["interval"]:
        return "too few epochs"
    return "{:.4g} to {:.4g} s".format(*row["interval"]) + f" ({row['width']:.1%})"


# Heads that leave a terminal of 80 columns room for the intervals.
_HEADS = {"nodes x ranks x cores": "nodes x\nranks x\ncores", "efficiency": "effi-\nciency"}


def _print_series(series: Series, charge: dict[str, Any] | None, console: Console) -> None:
    title = f"{series.setting} {kind(series)}".strip()
    console.print(title, soft_wrap=True, highlight=False, markup=False)
    table = Table()
    unit = charge["unit"] if charge else "cost"
    for name in columns(unit):
        table.add_column(_HEADS.get(name, name.replace("/", "/\n")), no_wrap=True)
    for row in table_rows(series):
        table.add_row(*(_narrow(text) for text in row))
    console.print(table)
    for line in (*series.missing, series.verdict):
        if line:
            console.print(line, soft_wrap=True, highlight=False)


def _narrow(text: str) -> str:
    """Return "value (a to b)" as two lines."""
    return text.replace(" (", "\n").replace("% to ", "-").replace(" to ", "-").rstrip(")")


def kind(series: Series) -> str:
    """Return what kind of scaling a series is, with its base case."""
    what = "weak scaling (batch of a rank fixed)" if series.weak else "strong scaling (whole batch fixed)"
    base = f"; base case: nodes x ranks x cores {series.points[0]['label']}" if series.points else ""
    one = "; intervals within one run" if any(point["runs"] == 1 for point in series.points) else ""
    return what + base + one


def columns(unit: str) -> tuple[str, ...]:
    """Return the names of the columns of a series' table."""
    return "nodes x ranks x cores", "runs", "epoch, s", "speed-up", "efficiency", "sums", f"{unit}/epoch", "unfit"


def table_rows(series: Series) -> list[tuple[str, ...]]:
    """Return a row a point, as text."""
    return [
        (
            point["label"],
            str(point["runs"]),
            _with(point["epoch_s"], point["interval"], "{:.3g}"),
            _with(point["speedup"], point["speedup_interval"], "{:.2f}"),
            _with(point["efficiency"], point["efficiency_interval"], "{:.0%}"),
            "-" if point["communication"] is None else f"{point['communication']:.0%}",
            "-" if point["cost"] is None else f"{point['cost']:.2g}",
            str(point["unfit"]),
        )
        for point in series.points
    ]


def _with(value: float, interval: list[float] | None, form: str) -> str:
    return form.format(value) + (f" ({form} to {form})".format(*interval) if interval else "")
