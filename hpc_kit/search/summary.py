"""What the searches of a run found, and which strategy found more: as JSON and on a terminal. The login side."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import TaskStatus
from hpc_kit.search.compare import comparison, groups
from hpc_kit.search.results import Search, read_search
from hpc_kit.text import in_unit

MOST_REASONS = 5


def searches_of(run: RunDir, tasks: Sequence[Task]) -> list[Search]:
    """Return the searches of a run, also those that have no trial yet. Raises InputError."""
    return [read_search(run.task(task.id), task) for task in tasks]


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what is said of each search, and of the strategies where there are several."""
    searches = searches_of(run, tasks)
    rows = [_row(search, states[search.task.id].state, spent.get(search.task.id)) for search in searches]
    several = [group for group in groups(searches) if len(group.sides) > 1 and group.budget]
    return {"searches": rows, "comparisons": [comparison(group) for group in several]}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a row a search, why trials failed, and a table and a sentence for each comparison of strategies."""
    table = Table()
    charge = summary.get("charge")
    names = ("search", "state", "trials", "best", "idle", "optimizer\ns/trial", *([charge["unit"]] if charge else []))
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place < 3 else "right", overflow="fold")
    for row in summary["searches"]:
        table.add_row(
            Text(row["label"]),
            row["state"],
            counted(row["states"]),
            in_unit(row["best"]["error"], row["best"]["unit"]) if row["best"] else "-",
            _number(row["worker_idle"], "{:.1%}"),
            _number(row["optimizer_cpu_s"], "{:.3f}"),
            *([_number(row["charge"], "{:.3g}")] if charge else []),
        )
    console.print(table)
    for row in summary["searches"]:
        for reason, count in list(row["reasons"].items())[:MOST_REASONS]:
            _say(console, f"{row['label']}: {count} failed: {reason}")
    for found in summary["comparisons"]:
        console.print(_compared(found))
        for test in found["tests"]:
            _say(console, test["sentence"])


def counted(states: dict[str, int]) -> str:
    """Return counts by state in words: "38 done, 2 failed"."""
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "-"


def compared_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of strategies, as the paper's table 4, with its numbers beside ours."""
    unit, published = found["unit"], found["published"]
    columns = ["strategy", "searches", "trials", "done", "least error", "std of errors", "median best"]
    columns += ["published least", "published std"] if published else []
    rows = []
    for name, side in found["sides"].items():
        row = [name, str(side["searches"]), str(side["trials"]), str(side["done"])]
        row += [in_unit(side[key], unit) for key in ("min_loss", "std_loss", "median_best")]
        if published:
            row += [_number(published.get(name, {}).get(key), "{:g}") for key in ("min_loss", "std_loss")]
        rows.append(row)
    return columns, rows


def _compared(found: dict[str, Any]) -> Table:
    columns, rows = compared_rows(found)
    label = f"{found['label']}: " if found["label"] else ""
    table = Table(*columns, title=f"{label}strategies after {found['budget']} trials of each search")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _row(search: Search, state: str, charge: float | None) -> dict[str, Any]:
    return {
        "id": search.task.id,
        "label": search.label,
        "state": state,
        "strategy": search.strategy,
        **search.numbers(),
        "charge": charge,
    }


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
