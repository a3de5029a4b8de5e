"""Tables and lists of runs, tasks and plans."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.plan import Plan
from hpc_kit.report.summary import in_unit
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import TaskStatus
from hpc_kit.sites.launch import shell_line, task_command, task_environment
from hpc_kit.spec.site import Site

LOG_LINES = 10


def print_runs(runs: dict[str, list[TaskStatus]], console: Console) -> None:
    """Print one line a run: how many of its tasks are in which state."""
    table = Table("run", "tasks", "states")
    for path, states in runs.items():
        counts = {name: sum(s.state == name for s in states) for name in sorted({s.state for s in states})}
        table.add_row(path, str(len(states)), ", ".join(f"{n} {name}" for name, n in counts.items()))
    console.print(table)


def print_tasks(states: list[TaskStatus], console: Console) -> None:
    """Print one line a task."""
    table = Table("task", "state", "attempt", "epochs", "val MAE", "why")
    for s in states:
        error = in_unit(s.val_mae, s.unit)
        table.add_row(s.label, s.state, str(s.attempt), f"{s.epoch}/{s.epochs}", error, s.reason)
    console.print(table)


def print_shard_set(info: dict[str, Any], console: Console) -> None:
    """Print what `hpc_kit.data.inspect.info` found."""
    size, graphs = info["bytes"], info["graphs"]
    for line in (
        f"{info['name']}: {graphs} graphs, {info['atoms']} atoms, {info['edges']} edges; {info['rejected']} rejected",
        f"{info['shards']} shards, {size / 1e6:.1f} MB, {size / graphs:.0f} bytes a graph",
        f"graph: {info['graph'] or 'atoms only; edges are built on reading'}",
        f"elements: {info['elements']}",
        f"sha256: {info['sha256']}",
        *(f"{key}: {value}" for key, value in info["source"].items()),
        *(f"split {name}: {parts}" for name, parts in info["splits"].items()),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    targets = Table("target", "unit", "known", "mean", "MAD", "min", "max")
    for name, t in info["targets"].items():
        numbers = ["-" if t[k] is None else f"{t[k]:.5g}" for k in ("mean", "mad", "min", "max")]
        targets.add_row(name, t["unit"], str(t["known"]), *numbers)
    console.print(targets)
    for name in ("atoms_per_graph", "edges_per_graph"):
        rows = info[name]
        if rows:
            console.print(name.replace("_", " "))
            most = max(row["count"] for row in rows)
            for row in rows:
                bar = "#" * -(-40 * row["count"] // most)
                text = f"  {row['from']:>6}-{row['to']:<6} {row['count']:>8} {bar}"
                console.print(text, markup=False, highlight=False)


def print_plan(plan: Plan, site: Site, path, at_a_time: int) -> None:
    """Print every task and the exact command that runs it."""
    print(f"run: {path}")
    print(f"site: {site.name} ({site.description}), {at_a_time} at a time")
    print(f"{len(plan.tasks)} tasks; nothing was started")
    for task in plan.tasks:
        command = task_command(RunDir(path).task(task.id).path, task.resources)
        print(f"\n{task.id}  {task.label}\n  {shell_line(command, task_environment(site, task.resources))}")


def print_failures(run: RunDir, states: list[TaskStatus], console: Console) -> None:
    """Print why each task that ended badly did, with the last lines of its log, and how to go on."""
    for s in states:
        if s.state in ("failed", "lost"):
            console.print(f"\n{s.label}: {s.state}: {s.reason}", markup=False, highlight=False, soft_wrap=True)
            for line in run.task(s.id).log_tail(LOG_LINES):
                console.print(f"  | {line}", markup=False, highlight=False, soft_wrap=True)
            console.print(f"  log: {run.task(s.id).log}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nto go on: hpc_kit resume {run.path}", markup=False, highlight=False, soft_wrap=True)
