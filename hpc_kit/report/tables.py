"""Tables and lists of runs, tasks and plans."""

from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import TaskStatus

LOG_LINES = 10


def print_runs(runs: dict[str, list[TaskStatus] | str], console: Console) -> None:
    """Print one line a run: how many of its tasks are in which state; or what is wrong with it."""
    table = Table("run", "tasks", "states")
    for path, states in runs.items():
        if isinstance(states, str):
            table.add_row(Text(path), "?", Text(states))
            continue
        counts = {name: sum(s.state == name for s in states) for name in sorted({s.state for s in states})}
        table.add_row(Text(path), str(len(states)), ", ".join(f"{n} {name}" for name, n in counts.items()))
    console.print(table)


def print_tasks(states: list[TaskStatus], console: Console) -> None:
    """Print one line a task."""
    table = Table("task", "state", "attempt", "done", "so far", "why")
    for s in states:
        before = f"before: {s.before}" if s.before and not s.ended else ""
        why = "; ".join(filter(None, (s.reason, s.hint, before)))
        so_far = f"{s.done}/{s.total} {s.unit}"
        table.add_row(Text(s.label), s.state, str(s.attempt), so_far, s.said or "-", Text(why))
    console.print(table)


def print_blocks(blocks: list[dict[str, Any]], file: TextIO) -> None:
    """Print what the scheduler says of each block of a run."""
    for block in blocks:
        waits = f" ({block['why']})" if block["why"] else ""
        print(f"block {block['job'] or '-'} {block['name']}: {block['state']}{waits}: {block['evidence']}", file=file)
    if not blocks:
        print("no block of this run is in the queue", file=file)


def print_shard_set(info: dict[str, Any], console: Console) -> None:
    """Print what `hpc_kit.data.inspect.info` found."""
    size, graphs = info["bytes"], info["graphs"]
    stored = [_stored(name, count, graphs) for name, count in info["per_atom"].items() if count != 0]
    for line in (
        f"{info['name']}: {graphs} graphs, {info['atoms']} atoms, {info['edges']} edges; {info['rejected']} rejected",
        f"{info['shards']} shards, {size / 1e6:.1f} MB, {size / graphs:.0f} bytes a graph",
        f"graph: {info['graph'] or 'atoms only; edges are built on reading'}",
        f"elements: {info['elements']}",
        f"per atom: {', '.join(stored)}",
        *([f"left out: {', '.join(info['left_out'])}"] if info["left_out"] else []),
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


def _stored(name: str, count: int | None, graphs: int) -> str:
    if count is None:
        return f"{name}, if at all, in an unknown number of graphs"
    return name if count == graphs else f"{name} for {count} of {graphs} graphs"


def print_failures(run: RunDir, states: list[TaskStatus], console: Console) -> None:
    """Print why each task that ended badly did, with the last lines of its log, and how to go on."""
    for s in states:
        if s.ended and s.state != "done" and s.reason != "on request":
            why = f"\n{s.label}: {s.state}: {s.reason}" + (f"\n  {s.hint}" if s.hint else "")
            console.print(why, markup=False, highlight=False, soft_wrap=True)
            for line in run.task(s.id).log_tail(LOG_LINES):
                console.print(f"  | {line}", markup=False, highlight=False, soft_wrap=True)
            console.print(f"  log: {run.task(s.id).log}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nto go on: hpc_kit resume {run.path}", markup=False, highlight=False, soft_wrap=True)
