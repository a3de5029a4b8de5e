"""The command that shows what came of searches."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.cli.options import JsonOption, console
from hpc_kit.spec.errors import InputError


def search(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory of kind search.")],
    top: Annotated[int, typer.Option(help="How many trials to show.")] = 20,
    task: Annotated[str, typer.Option(help="Part of a search's id or label [all searches].")] = "",
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write all trials as a table.")] = None,
    best: Annotated[
        Path | None, typer.Option("--best", metavar="FILE", help="Write the best trial as a job file.")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option("--repeat", metavar="N", help="With --best: with N fresh seeds instead of its own.")
    ] = None,
    repeats: Annotated[
        Path | None, typer.Option("--repeats", metavar="RUN", help="A run of the best trial's repeats: compare.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the trials of a run's searches by error; write them as a table, or the best one as a job file."""
    from hpc_kit.runs.layout import RunDir
    from hpc_kit.search import show

    for name, value in (("--top", top), ("--repeat", repeat)):
        if value is not None and value < 1:
            raise InputError(f"{name}: must be at least 1 (got {value})")
    if repeat is not None and best is None:
        raise InputError("--repeat goes with --best FILE")
    directory = RunDir(run)
    searches = show.chosen(directory, task)
    told = []
    if csv is not None:
        told.append(show.write_rows(searches, csv, force))
    if best is not None:
        told += show.write_best(directory, searches, best, repeat, force)
    again = show.said_of_repeats(searches, RunDir(repeats)) if repeats is not None else None
    if as_json:
        print(json.dumps({"trials": show.by_error(searches, None), "repeats": again}, indent=2))
        return
    if not told and again is None:
        show.print_trials(searches, top, console())
    for line in [*told, *([again["sentence"]] if again else [])]:
        print(line)
