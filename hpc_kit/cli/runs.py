"""Commands that make, follow and end runs: submit, run, resume, status, logs, cancel, report, task."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.cli.options import AccountOption, JsonOption, PartitionOption, console
from hpc_kit.spec.errors import InputError, WorkError

app = typer.Typer(rich_markup_mode=None)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job file, or the name of one that ships.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job; may be repeated.")
]
RunOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="The run directory [runs/<name>-<time>].")
]
WalltimeOption = Annotated[str | None, typer.Option(help="The time of one task, as resources.walltime [the job's].")]
ForceOption = Annotated[bool, typer.Option("--force", help="Submit although the site's limits are violated.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Go on without this terminal; see 'hpc_kit status'.")]
RUNS = Path("runs")


@app.command(
    epilog="Example: hpc_kit submit --site delta --account abcd-delta-gpu quickstart --set resources.gpus_per_rank=1"
    " --dry-run"
)
def submit(
    job: JobArgument,
    site: Annotated[str, typer.Option(help="A site by name, or a site file; 'hpc_kit sites list' shows them.")],
    sets: SetOption = [],
    run: RunOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    walltime: WalltimeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print limits, cost, scripts; start nothing.")] = False,
    force: ForceOption = False,
    detach: DetachOption = False,
) -> None:
    """Run all tasks of a job on a site, through Parsl.

    With --run naming an existing run of the same tasks, only those not done are run.
    """
    from hpc_kit.plan import make_plan
    from hpc_kit.runs.create import create_run
    from hpc_kit.spec.job import load_job
    from hpc_kit.spec.site import load_site
    from hpc_kit.submit import prepare

    machine = load_site(site, account, partition)
    file = load_job(job, [*sets, *([f"resources.walltime={walltime}"] if walltime is not None else [])])
    plan = make_plan(file)
    path = _run_path(run, file.job.name)
    blocks, problems = prepare(machine, plan)
    _tell_notes(plan)
    if dry_run:
        from hpc_kit.report.plan import print_plan

        print_plan(plan, machine, path, blocks, problems)
    if problems and not force:
        raise InputError("\n".join([*problems, "nothing was submitted; --force does all the same"]))
    if not dry_run:
        _drive(create_run(path, plan, file.job, machine), plan, machine, detach=detach)


@app.command(epilog="Example: apptainer exec image.sif hpc_kit run quickstart")
def run(job: JobArgument, sets: SetOption = [], run: RunOption = None) -> None:
    """Run all tasks of a job here and now, one after the other, without Parsl.

    It starts the ranks that the job asks for by itself. A launcher may start them too, as in 'mpiexec -n 5 hpc_kit
    run JOB'; the run directory is then runs/<name>, and a second call goes on there.
    """
    from hpc_kit.plan import make_plan
    from hpc_kit.ranks import expect_ranks, is_launched
    from hpc_kit.runs.create import create_run
    from hpc_kit.spec.job import load_job
    from hpc_kit.spec.site import load_site
    from hpc_kit.submit import prepare

    machine = load_site("local")
    file = load_job(job, sets)
    plan = make_plan(file)
    launched, path = is_launched(), run
    if launched:
        path = run or RUNS / file.job.name  # the same for all ranks
        ranks = [expect_ranks(task.resources.nodes * task.resources.ranks_per_node) for task in plan.tasks]
        if ranks[0].rank > 0:
            from hpc_kit.runs.layout import RunDir
            from hpc_kit.sites.follower import follow

            follow(RunDir(_run_path(path, file.job.name)), plan, machine)
            return
    else:
        prepare(machine, plan)
    _tell_notes(plan)
    _drive(create_run(_run_path(path, file.job.name), plan, file.job, machine), plan, machine, parsl=False)


@app.command(epilog="Example: hpc_kit resume runs/quickstart-20260102-030405")
def resume(run: RunArgument, detach: DetachOption = False) -> None:
    """Run those tasks of a run that are not done, each from its last checkpoint."""
    from hpc_kit.runs.layout import RunDir

    directory = RunDir(run.absolute())
    _drive(directory, directory.read_plan(), directory.read_site(), detach=detach)


@app.command(epilog="Example: hpc_kit status runs/quickstart-20260102-030405 --json")
def status(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run directory [all in runs/].")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the scheduler about the run's blocks.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what became of each task of a run, or of each run, from files alone; --refresh asks the scheduler too."""
    from hpc_kit.report import tables
    from hpc_kit.runs.layout import RunDir, find_runs
    from hpc_kit.runs.status import read_statuses, states_or_fault

    if refresh and run is None:
        raise InputError("--refresh needs a RUN")
    if run is None:
        runs = {str(r.path): states_or_fault(r) for r in find_runs(RUNS)}
        if as_json:
            told = {p: {"error": x} if isinstance(x, str) else [s.as_json() for s in x] for p, x in runs.items()}
            print(json.dumps(told, indent=2))
        elif runs:
            tables.print_runs(runs, console())
        else:
            print(f"no runs in {RUNS}/")
        return
    states = read_statuses(RunDir(run))
    if as_json:
        print(json.dumps([s.as_json() for s in states], indent=2))
    else:
        tables.print_tasks(states, console())
    if refresh:
        from hpc_kit.submit import ask_blocks

        tables.print_blocks(ask_blocks(RunDir(run)), sys.stderr if as_json else sys.stdout)


@app.command(epilog="Example: hpc_kit logs runs/quickstart-20260102-030405 seed=1 -f")
def logs(
    run: RunArgument,
    task: Annotated[str, typer.Argument(help="Part of a task's id or label [all tasks].")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as the logs grow, until the run ends.")
    ] = False,
) -> None:
    """Print the logs of a run's tasks."""
    from hpc_kit.report.logs import print_logs
    from hpc_kit.runs.layout import RunDir

    print_logs(RunDir(run), task, follow)


@app.command(epilog="Example: hpc_kit cancel runs/quickstart-20260102-030405")
def cancel(run: RunArgument) -> None:
    """End a run: its running tasks are stopped, the rest is not started, and its blocks leave the queue."""
    from hpc_kit.runs.layout import RunDir
    from hpc_kit.submit import cancel_blocks, request_cancel

    directory = RunDir(run)
    directory.read_plan()
    if not request_cancel(directory):
        ended = cancel_blocks(directory, directory.read_site())
        print(f"{run}: no driver is at work; ended {len(ended)} blocks" if ended else f"{run}: nothing runs")
        return
    while directory.lock.is_held():
        time.sleep(0.2)
    print(f"{run}: cancelled; 'hpc_kit resume {run}' goes on")


@app.command(epilog="Example: hpc_kit report runs/quickstart-20260102-030405 --json")
def report(
    run: RunArgument,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page to look at instead, whole in one file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the tasks of a run reached and where their time went."""
    if html is not None:
        from hpc_kit.report.page import write_page
        from hpc_kit.runs.layout import RunDir

        print(f"{html}: {write_page(RunDir(run), html, force) / 1e6:.2f} MB")
        return
    from hpc_kit.report.summary import print_summary, summarize
    from hpc_kit.runs.layout import RunDir

    summary = summarize(RunDir(run))
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        print_summary(summary, console())


@app.command(epilog="Example: hpc_kit export runs/quickstart-20260102-030405 --csv tables")
def export(
    run: RunArgument,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="DIR", help="Write the run's tables there.")] = None,
    jarvis: Annotated[
        Path | None, typer.Option("--jarvis", metavar="DIR", help="Write contributions to JARVIS-Leaderboard there.")
    ] = None,
    team: Annotated[str, typer.Option(help="The team that submits to the leaderboard.")] = "",
    email: Annotated[str, typer.Option(help="An address of one of its members.")] = "",
    project: Annotated[str, typer.Option(metavar="URL", help="Where the work is described.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a run's epochs, errors and predictions as CSV, or as a submission to JARVIS-Leaderboard."""
    from hpc_kit.report.export import write_tables
    from hpc_kit.report.leaderboard import Submitter, write_submission
    from hpc_kit.runs.layout import RunDir

    if csv is None and jarvis is None:
        raise InputError("say what to write: --csv DIR, --jarvis DIR or both")
    if jarvis is not None and not (team and "@" in email and project):
        raise InputError("the leaderboard wants --team, --email with an @, and --project")
    try:
        if csv is not None:
            for name, rows in write_tables(RunDir(run), csv, force).items():
                print(f"{csv / name}.csv: {rows} rows")
        if jarvis is not None:
            who = Submitter(team, email, project)
            for folder, names in write_submission(RunDir(run), jarvis, who, force).items():
                print(f"{folder}: {', '.join(names)}")
    except OSError as error:
        raise WorkError(f"{error.filename or csv or jarvis}: cannot be written: {error.strerror}") from None


@app.command(epilog="Example: hpc_kit task runs/quickstart-20260102-030405/tasks/quickstart-seed0-0123456789ab")
def task(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A task directory.")]) -> None:
    """Run one task directory; this is what a node runs."""
    from hpc_kit.task import run_task

    run_task(folder)


def _tell_notes(plan) -> None:
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)


def _run_path(run: Path | None, name: str) -> Path:
    from hpc_kit.runs.create import new_run_path
    from hpc_kit.spec.text import control_character

    path = (run or new_run_path(RUNS, name)).absolute()
    if reason := control_character(str(path)):  # it comes to stand in batch scripts
        raise InputError(f"--run {str(path)!r}: {reason}")
    return path


def _drive(run, plan, site, parsl: bool = True, detach: bool = False) -> None:
    from hpc_kit import submit

    if detach:
        pid, host = submit.detach(run)
        print(f"run: {run.path}\ndriver: process {pid} on {host}, which needs no terminal; its log: {run.driver_log}")
        print(f"hpc_kit status {run.path}    hpc_kit logs {run.path} -f    hpc_kit cancel {run.path}")
        return
    from hpc_kit.report.progress import progress
    from hpc_kit.report.summary import print_summary, summarize
    from hpc_kit.report.tables import print_failures

    out = console()
    out.print(f"run: {run.path}", soft_wrap=True, highlight=False)
    show = progress(out)
    try:
        states = submit.drive(run, plan, site, show, parsl, show.say)
    finally:
        show.close()
    print_summary(summarize(run), out)
    if any(s.state != "done" for s in states):
        print_failures(run, states, out)
        raise WorkError(f"{sum(s.state != 'done' for s in states)} of {len(states)} tasks are not done")
