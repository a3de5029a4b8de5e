"""Commands of the group `bench` about timings: compare, baseline, check, export."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.cli.options import JsonOption, console
from hpc_kit.spec.errors import InputError, WorkError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
MeasureOption = Annotated[
    str, typer.Option(metavar="FIELD", help="The time of epochs.jsonl that counts: wall_s, compute_s, data_wait_s...")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


class Format(str, Enum):
    """Forms in which timings are handed on."""

    mlperf = "mlperf"
    jarvis = "jarvis"
    matbench = "matbench"


@app.command(epilog="Example: hpc_kit bench compare runs/delta-20260102-030405 runs/polaris-20260102-040506")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="A B...", help="Runs of trainings or benchmarks; A is the base.")
    ],
    normalise_to: Annotated[
        str | None,
        typer.Option("--normalise-to", metavar="LABEL", help="Take each run over its configuration of this label."),
    ] = None,
    measure: MeasureOption = "wall_s",
    as_json: JsonOption = False,
) -> None:
    """Tell how much slower runs are than the first.

    And whether their timings may be compared: a verdict, with reasons.
    """
    from hpc_kit.bench.compare import compare_runs
    from hpc_kit.bench.compare_table import print_comparison
    from hpc_kit.runs.layout import RunDir

    if len(runs) < 2:
        raise InputError("compare takes two runs or more: hpc_kit bench compare A B")
    comparison = compare_runs([RunDir(run) for run in runs], normalise_to, measure)
    if as_json:
        print(json.dumps(comparison, indent=2))
    else:
        print_comparison(comparison, console())


@app.command(epilog="Example: hpc_kit bench baseline runs/stack-20260102-030405 --out baseline.json")
def baseline(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of one job, of two seeds or more.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    measure: MeasureOption = "wall_s",
    force: ForceOption = False,
) -> None:
    """Write down timings for later runs to be checked against."""
    from hpc_kit.bench.baseline import write_baseline
    from hpc_kit.runs.layout import RunDir

    try:
        count = write_baseline([RunDir(run) for run in runs], out, force, measure)
    except OSError as error:
        raise WorkError(f"{out}: cannot be written: {error.strerror}") from None
    print(f"{out}: {count} configuration{'s' if count > 1 else ''}")


@app.command(epilog="Example: hpc_kit bench check runs/stack-20260202-030405 --baseline baseline.json")
def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of the baseline's job.")],
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="What 'hpc_kit bench baseline' has written.")],
    fail_above: Annotated[
        float, typer.Option("--fail-above", metavar="RATIO", help="How much slower is still good.")
    ] = 1.05,
    as_json: JsonOption = False,
) -> None:
    """Exit with 1 where a run is slower than a baseline.

    Slower by more than a ratio and by more than chance.
    """
    from hpc_kit.bench import baseline as baselines
    from hpc_kit.bench.compare_table import print_check
    from hpc_kit.runs.layout import RunDir

    checked = baselines.check(RunDir(run), baseline, fail_above)
    if as_json:
        print(json.dumps(checked, indent=2))
    else:
        print_check(checked, console())
    if checked["slower"]:
        labels = [one["label"] or "the run" for one in checked["configurations"] if one["outcome"] == "slower"]
        raise WorkError(f"slower than {fail_above:g} times the baseline: {', '.join(labels)}")


@app.command(epilog="Example: hpc_kit bench export runs/quickstart-20260102-030405 --format mlperf --out logs")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of trainings or benchmarks.")],
    format: Annotated[Format, typer.Option(help="Log lines, a leaderboard's folder, a record.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write into.")],
    team: Annotated[str, typer.Option(help="jarvis: the team that submits.")] = "",
    email: Annotated[str, typer.Option(help="jarvis: an address of one of its members.")] = "",
    project: Annotated[str, typer.Option(metavar="URL", help="jarvis: where the work is described.")] = "",
    force: ForceOption = False,
) -> None:
    """Write timings and errors in a form that others read."""
    from hpc_kit.bench.export import write_matbench, write_mlperf
    from hpc_kit.report.leaderboard import Submitter, write_submission
    from hpc_kit.runs.layout import RunDir

    if format is Format.jarvis and not (team and "@" in email and project):
        raise InputError("the leaderboard wants --team, --email with an @, and --project")
    try:
        if format is Format.jarvis:
            written = list(write_submission(RunDir(run), out, Submitter(team, email, project), force))
        else:
            write = write_mlperf if format is Format.mlperf else write_matbench
            written = write(RunDir(run), out, force)
    except OSError as error:
        raise WorkError(f"{error.filename or out}: cannot be written: {error.strerror}") from None
    for path in written:
        print(path)
