"""The summary of a run: what each task reached and where its time went, and the mean over seeds."""

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.files import read_lines
from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import TaskStatus, read_statuses
from hpc_kit.runs.used import used
from hpc_kit.sites.policy import estimate, plan_blocks


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


def summarize(run: RunDir) -> dict[str, Any]:
    """Return the rows of all tasks and, for each cell of the grid with several seeds done, mean and deviation."""
    plan = run.read_plan()
    states = {status.id: status for status in read_statuses(run)}
    if plan.tasks[0].kind == "prepare":
        done = [t for t in plan.tasks if states[t.id].state == "done"]
        sets = [json.loads(run.task(t.id).metrics.read_text()) for t in done]
        return {"run": str(run.path), "tasks": [], "seeds": [], "shard_sets": sets}
    spent = used(run)
    rows = [_row(run, task, states[task.id], spent.tasks.get(task.id) if spent else None) for task in plan.tasks]
    found = {"run": str(run.path), "tasks": [asdict(row) for row in rows], "seeds": _over_seeds(plan, rows)}
    if spent:
        found["charge"] = {"unit": spent.unit, "used": spent.run, "at_most": _at_most(run, plan)}
    return found


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print the summary as a table, and the path of the run.

    "guessing the mean" is the MAE of always predicting the training part's mean; s/epoch is the median.
    """
    for made in summary.get("shard_sets", []):
        text = f"{made['out']}: {made['graphs']} graphs, {made['rejected']} rejected, sha256 {made['sha256']}"
        console.print(text, soft_wrap=True, highlight=False)
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
    if charge:
        text = f"{charge['used']:.3g} {charge['unit']} used, of at most {charge['at_most']:.3g} estimated"
        console.print(text, soft_wrap=True, highlight=False)
    console.print(f"run: {summary['run']}", soft_wrap=True, highlight=False)


def in_unit(value: float | None, unit: str, form: str = ".4g", with_unit: bool = True) -> str:
    """Return `value` as `form` says; energies in eV are shown in meV, and Angstrom by its sign."""
    if value is None:
        return "-"
    if unit == "eV" or unit.startswith("eV/"):
        value, unit = value * 1000, "m" + unit
    unit = unit.replace("Angstrom", "Å")
    return f"{value:{form}} {unit}" if with_unit else f"{value:{form}}"


def _at_most(run: RunDir, plan: Plan) -> float:
    site, resources = run.read_site(), plan.tasks[0].resources
    return estimate(site, resources, len(plan.tasks), plan_blocks(site, resources, len(plan.tasks))).total


def _row(run: RunDir, task: Task, status: TaskStatus, spent: float | None) -> Row:
    folder = run.task(task.id)
    metrics = json.loads(folder.metrics.read_text()) if status.state == "done" else {}
    epochs = read_lines(folder.epochs)
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


def _over_seeds(plan: Plan, rows: list[Row]) -> list[dict[str, Any]]:
    cells: dict[str, list[Row]] = {}
    for task, row in zip(plan.tasks, rows, strict=True):
        if row.targets and all(target["test_mae"] is not None for target in row.targets.values()):
            cells.setdefault(task.label.rpartition("seed=")[0].strip(), []).append(row)
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
