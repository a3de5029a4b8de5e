"""Commands that hold measured runs against each other: table, pareto, deviations."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.cli.options import JsonOption, console
from hpc_kit.spec.errors import InputError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
RunsArgument = Annotated[list[Path], typer.Argument(metavar="[RUN...]", help="Run directories.")]
MeasureOption = Annotated[
    list[str],
    typer.Option(
        "--measure", metavar="NAME", help="test_mae, epoch_s, test_mae:TARGET or a number of metrics.json; repeat it."
    ),
]
OverOption = Annotated[
    str | None, typer.Option("--normalise-to", metavar="CELL", help="The cell that is 1, by its values: 4,4.")
]
PublishedOption = Annotated[
    str | None,
    typer.Option("--published", metavar="TABLE", help="A published table beside it: alignn_ablation, or a CSV file."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Write figures (SVG, PDF) and their numbers (CSV).")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is in FOLDER.")]


@app.command(epilog="Example: hpc_kit bench table runs/alignn-ablation-20260102-030405 --published alignn_ablation")
def table(
    runs: RunsArgument = [],
    measures: MeasureOption = [],
    over: OverOption = None,
    published: PublishedOption = None,
    rows: Annotated[str | None, typer.Option(metavar="KEY", help="The axis of the rows [the first].")] = None,
    columns: Annotated[str | None, typer.Option(metavar="KEY", help="The axis of the columns [the next].")] = None,
    out: OutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table of what each cell of a grid reached.

    Means over seeds with their intervals; with --published also how far they are from a published table.
    """
    from hpc_kit.bench import study_tables
    from hpc_kit.bench.study_command import gather, usual_measures

    parts = [gather(runs, [measure], over, published) for measure in measures or usual_measures(runs, published)]
    axes = study_tables.axes_of_table([*parts[0][0], *parts[0][1]][0], rows, columns)
    if out is not None:
        from hpc_kit.bench.figures import write_tables

        _tell(write_tables(parts, axes, out, force), as_json)
    if as_json:
        print(json.dumps([row for part in parts for row in study_tables.table_rows(*part)], indent=2))
        return
    for part in parts:
        study_tables.print_tables(*part, axes, console())


@app.command(epilog="Example: hpc_kit bench pareto runs/alignn-ablation-20260102-030405 --published alignn_ablation")
def pareto(
    runs: RunsArgument = [],
    measures: MeasureOption = ["epoch_s", "test_mae"],
    over: OverOption = None,
    published: PublishedOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which cells of a grid no other beats in two measures.

    And how certain that is, by their seeds.
    """
    from hpc_kit.bench import study_tables
    from hpc_kit.bench.published import discrepancy
    from hpc_kit.bench.study_command import gather, require_values

    if len(measures) != 2:
        raise InputError(f"--measure: a front is of two measures (got {', '.join(measures)})")
    ours, theirs = gather(runs, measures, over, published)
    require_values([*ours, *theirs])
    if out is not None:
        from hpc_kit.bench.figures import write_pareto

        _tell(write_pareto([*ours, *theirs], out, force), as_json)
    if as_json:
        print(json.dumps(list(study_tables.pareto_rows([*ours, *theirs])), indent=2))
        return
    study_tables.print_pareto([*ours, *theirs], console())
    for study in (study for study in theirs if study.printed_front):
        for line in discrepancy(study):
            print(f"{study.name}: {line}")


@app.command(epilog="Example: hpc_kit bench deviations runs/jarvis-29-20260102-030405 --out figure-1")
def deviations(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of trainings over data.target.")],
    published: Annotated[
        str, typer.Option(metavar="TABLE", help="The published errors: a table that ships, or a CSV file.")
    ] = "jarvis_dft_29_tasks",
    out: OutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far errors are from published ones.

    Of each target the mean over its seeds, the least and the greatest.
    """
    from dataclasses import asdict

    from hpc_kit.bench import deviations as of
    from hpc_kit.bench.published import read_published
    from hpc_kit.runs.layout import RunDir

    found = of.deviations(RunDir(run), read_published(published))
    if out is not None:
        from hpc_kit.bench.figures import write_figure

        rows = of.deviation_rows(found)
        _tell(write_figure(out, "deviations", rows, lambda canvas: of.draw(canvas, found), force), as_json)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        of.print_deviations(found, console())


def _tell(paths: list[Path], as_json: bool) -> None:
    for path in paths:
        typer.echo(path, err=as_json)
