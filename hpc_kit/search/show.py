"""What `hpc_kit search` shows and writes: the table of trials, search.csv, the best trial as a job file. The login
side."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpc_kit.files import is_of_disk, write_atomically
from hpc_kit.runs.layout import RunDir
from hpc_kit.search import winner
from hpc_kit.search.records import kind_of
from hpc_kit.search.results import Search, write_table
from hpc_kit.search.summary import counted, searches_of
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.text import in_unit

_OTHERS_WIDTH, _VALUE_WIDTH = 60, 12  # characters that a table of trials takes beside its values, and for each


def chosen(run: RunDir, part: str) -> list[Search]:
    """Return the searches of a run whose id or label holds `part`. Raises InputError where `run` is no run of
    searches, or none is of that name."""
    plan = run.read_plan()
    run.require_tasks()
    if plan.kind != "search":
        raise InputError(f"{run.path}: is a run of kind {plan.kind}, not of searches; 'hpc_kit report' shows it")
    searches = searches_of(run, plan.tasks)
    found = [search for search in searches if part in search.task.id or part in search.label]
    if not found:
        labels = ", ".join(search.label for search in searches)
        raise InputError(f"--task {part}: no search has this in its id or label ({labels})")
    return found


def by_error(searches: Sequence[Search], top: int | None) -> list[dict[str, Any]]:
    """Return rows of trials: those done by error, then those under way, pruned and failed; the first `top`."""
    order = {"done": 0, "running": 1, "waiting": 2, "pruned": 3, "failed": 4}

    def place(row: dict[str, Any]) -> tuple:
        error = row["error"]
        return order.get(row["state"], 9), error is None, error if error is not None else 0.0, row["number"]

    return sorted((row for search in searches for row in search.rows()), key=place)[:top]


def print_trials(searches: Sequence[Search], top: int, console: Console) -> None:
    """Print the trials by error, with a column for each value where there is room; each search's counts, and the
    first failure of each kind in full."""
    rows, several = by_error(searches, top), len(searches) > 1
    labels = {search.task.id: search.label for search in searches}
    keys = list(dict.fromkeys(key for search in searches for key in search.keys))
    names = short_names(keys)
    wide = console.width >= _OTHERS_WIDTH + _VALUE_WIDTH * len(keys)
    table = Table()
    for name in [*(["search"] if several else []), "trial", "error", "epoch", "state"]:
        table.add_column(name, overflow="fold", no_wrap=name in ("trial", "error", "epoch"))
    for name in names.values() if wide else ["values"]:
        table.add_column(name, overflow="fold")
    for row in rows:
        epoch = "-" if row["epoch_s"] is None else f"{row['epoch_s']:.3g} s"
        state = ": ".join(word for word in (row["state"], kind_of(row["reason"])) if word)
        cells = [str(row["number"]), in_unit(row["error"], row["unit"]), epoch, state]
        values = {name: _value(row.get(key)) for key, name in names.items()}
        if not wide:
            values = {"": ", ".join(f"{name} {value}" for name, value in values.items() if value != "-")}
        table.add_row(*map(Text, [*([labels[row["search"]]] if several else []), *cells, *values.values()]))
    console.print(table)
    for search in searches:
        total = search.task.work.amount()[0]
        said = f"{search.label}: {len(search.ended)} of {total} trials ended: {counted(search.states)}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        for trials in search.failures.values():
            said = f"trial {trials[0].number}: {trials[0].reason}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return what each key is called over a column: its last part, the whole where two would be alike."""
    last = [key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def write_rows(searches: Sequence[Search], path: Path, force: bool) -> str:
    """Write all trials as CSV; return what to tell. Raises InputError, WorkError."""
    with _written(path, force):
        return f"{path}: {write_table(searches, path)} trials"


def write_best(run: RunDir, searches: Sequence[Search], path: Path, repeat: int | None, force: bool) -> list[str]:
    """Write the best trial as a job file, with `repeat` fresh seeds where given; return what to tell."""
    search, trial, of = winner.winner(searches)
    seeds = winner.fresh_seeds(searches, repeat) if repeat else None
    job = winner.job_of(search, trial, run.read_plan().name, of, seeds)
    with _written(path, force):
        write_atomically(path, job.encode())
    error = in_unit(trial.error, search.unit)
    lines = [f"{path}: trial {trial.number} of {search.label}, error {error}"]
    if repeat:
        again = f"'hpc_kit search {run.path} --repeats ITS_RUN'"
        lines.append(f"its {repeat} seeds are fresh: run it, and {again} compares")
    return lines


def said_of_repeats(searches: Sequence[Search], run: RunDir) -> dict[str, Any]:
    """Return what a run of repeats says of the best trial. Raises InputError."""
    return winner.repeats(*winner.winner(searches), run)


@contextlib.contextmanager
def _written(path: Path, force: bool) -> Iterator[None]:
    """Write the file `path` in this block. Raises InputError where it is there and `force` is not given, or cannot be
    written; WorkError where the disk fails."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists; --force replaces it")
    try:
        yield
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{path}: cannot be written: {error.strerror}") from None


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
