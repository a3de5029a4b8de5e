"""The commands. Each reads its arguments, calls one room, prints, and sets the exit code:
0 done, 1 the work failed, 2 the input is wrong, 75 preempted with the work so far kept."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit import __version__
from hpc_kit.spec.errors import PREEMPTED, InputError, Preempted, WorkError

app = typer.Typer(
    name="hpc_kit",
    help="Batch training of graph neural networks for molecules, crystals and MOFs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job file, or the name of one that ships.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job; may be repeated.")
]
RunOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="The run directory [runs/<name>-<time>].")
]
AccountOption = Annotated[str | None, typer.Option(help="What the site charges [the site file's].")]
PartitionOption = Annotated[str | None, typer.Option(help="A partition or queue of the site [the site file's].")]
WalltimeOption = Annotated[str | None, typer.Option(help="The time of one task, as resources.walltime [the job's].")]
ForceOption = Annotated[bool, typer.Option("--force", help="Submit although the site's limits are violated.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Go on without this terminal; see 'hpc_kit status'.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RUNS = Path("runs")
NODE_PACKAGES = ("torch", "torch_geometric", "vesin", "ijson")


@app.command(epilog="Example: hpc_kit submit --site delta --account abcd-delta-gpu jobs/quickstart.yaml --dry-run")
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
    from hpc_kit.runs.layout import create_run
    from hpc_kit.spec.job import load_job
    from hpc_kit.spec.site import load_site
    from hpc_kit.submit import prepare

    machine = load_site(site, account, partition)
    file = load_job(job, [*sets, *([f"resources.walltime={walltime}"] if walltime else [])])
    plan = make_plan(file)
    path = _run_path(run, file.job.name)
    blocks, problems = prepare(machine, plan)
    if dry_run:
        from hpc_kit.report.plan import print_plan

        print_plan(plan, machine, path, blocks, problems)
    if problems and not force:
        raise InputError("\n".join([*problems, "nothing was submitted; --force does all the same"]))
    if not dry_run:
        _drive(create_run(path, plan, file.job, machine), plan, machine, detach=detach)


@app.command(epilog="Example: apptainer exec image.sif hpc_kit run jobs/quickstart.yaml")
def run(job: JobArgument, sets: SetOption = [], run: RunOption = None) -> None:
    """Run all tasks of a job here and now, one after the other, without Parsl."""
    from hpc_kit.plan import make_plan
    from hpc_kit.runs.layout import create_run
    from hpc_kit.spec.job import load_job
    from hpc_kit.spec.site import load_site
    from hpc_kit.submit import prepare

    machine = load_site("local")
    file = load_job(job, sets)
    plan = make_plan(file)
    prepare(machine, plan)
    _drive(create_run(_run_path(run, file.job.name), plan, file.job, machine), plan, machine, parsl=False)


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
    from hpc_kit.runs.status import read_statuses

    if refresh and run is None:
        raise InputError("--refresh needs a RUN")
    if run is None:
        runs = {str(r.path): read_statuses(r) for r in find_runs(RUNS)}
        if as_json:
            print(json.dumps({path: [s.as_json() for s in states] for path, states in runs.items()}, indent=2))
        elif runs:
            tables.print_runs(runs, _console())
        else:
            print(f"no runs in {RUNS}/")
        return
    states = read_statuses(RunDir(run))
    if as_json:
        print(json.dumps([s.as_json() for s in states], indent=2))
    else:
        tables.print_tasks(states, _console())
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
def report(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show what the tasks of a run reached and where their time went."""
    from hpc_kit.report.summary import print_summary, summarize
    from hpc_kit.runs.layout import RunDir

    summary = summarize(RunDir(run))
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        print_summary(summary, _console())


@app.command(epilog="Example: hpc_kit task runs/quickstart-20260102-030405/tasks/quickstart-seed0-0123456789ab")
def task(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A task directory.")]) -> None:
    """Run one task directory; this is what a node runs."""
    from hpc_kit.task import run_task

    run_task(folder)


sites = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sites, name="sites", help="Show the sites there are, and check whether one can be used from here.")
SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="A site by name, or a site file.")]


@sites.command("list", epilog="Example: hpc_kit sites list")
def sites_list(as_json: JsonOption = False) -> None:
    """List the sites that ship and your own in ~/.config/hpc_kit/sites."""
    from hpc_kit.report.sites import print_sites
    from hpc_kit.spec.site import site_files

    files = site_files()
    if as_json:
        print(json.dumps({name: str(file) for name, file in files.items()}, indent=2))
    else:
        print_sites(files, _console())


@sites.command("show", epilog="Example: hpc_kit sites show delta")
def sites_show(site: SiteArgument, as_json: JsonOption = False) -> None:
    """Show a site as resolved: its partitions, limits, charges and options."""
    from hpc_kit.spec.site import load_site

    found = load_site(site)
    if as_json:
        print(json.dumps(found.model_dump(), indent=2))
    else:
        from hpc_kit.report.sites import print_site

        print_site(found, _console())


@sites.command("check", epilog="Example: hpc_kit sites check delta --account abcd-delta-gpu --on-a-node")
def sites_check(
    site: SiteArgument,
    account: AccountOption = None,
    partition: PartitionOption = None,
    job: Annotated[str | None, typer.Option(help="A job file: its image is checked, and its limits.")] = None,
    on_a_node: Annotated[
        bool, typer.Option("--on-a-node", help="Look from a compute node too; waits for one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check commands, account, folders, network and image of a site, from here and from one of its nodes."""
    from dataclasses import asdict

    from hpc_kit.plan import make_plan
    from hpc_kit.report.sites import print_checks
    from hpc_kit.sites.check import Check, check
    from hpc_kit.spec.job import load_job
    from hpc_kit.spec.site import load_site
    from hpc_kit.submit import prepare

    machine = load_site(site, account, partition)
    plan = make_plan(load_job(job)) if job else None
    found = check(machine, plan.tasks[0].image if plan else None, on_a_node)
    if plan:
        broken = prepare(machine, plan)[1]
        found += [Check("job", "fail", problem) for problem in broken] or [Check("job", "pass", "within all limits")]
    if as_json:
        print(json.dumps([asdict(c) for c in found], indent=2))
    else:
        print_checks(found, _console())
    if failed := sum(c.state == "fail" for c in found):
        raise WorkError(f"{failed} of {len(found)} checks failed")


data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data", help="Prepare, look at and verify shard sets.")
SetArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a shard set.")]


@data.command("prepare", epilog="Example: hpc_kit data prepare qm9 --out data/qm9 --cutoff 5")
def data_prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="qm9, md17, jarvis, hmof, core_mof or files.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    path: Annotated[Path | None, typer.Option(help="Where the data are [the installed package].")] = None,
    cutoff: Annotated[float, typer.Option(help="Angstrom: pairs closer than this are edges.")] = 5.0,
    max_neighbors: Annotated[int | None, typer.Option(help="Keep the nearest so many of each atom.")] = None,
    rule: Annotated[str, typer.Option(help="radius or alignn; docs/graphs.md states both.")] = "radius",
    atoms_only: Annotated[bool, typer.Option("--atoms-only", help="Store no edges.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first so many records.")] = None,
    shard_size: Annotated[int, typer.Option(help="Records a shard.")] = 2048,
    workers: Annotated[int | None, typer.Option(help="Processes [usable cores / ranks].")] = None,
    options: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the source; docs/sources.md.")
    ] = [],
) -> None:
    """Turn a source into a shard set; may be run under mpiexec or srun. Run again, it goes on where it ended."""
    from hpc_kit.data.command import prepare_from, summary
    from hpc_kit.spec.document import Document
    from hpc_kit.spec.job import Prepare

    fields = {"source": source, "path": path and str(path), "out": str(out), "limit": limit, "shard_size": shard_size}
    graph = {"cutoff": cutoff, "max_neighbors": max_neighbors, "rule": rule}
    pairs = [text.partition("=")[::2] for text in options]
    if wrong := [text for text in options if "=" not in text]:
        raise InputError(f"--option {wrong[0]}: must be key=value; docs/sources.md lists each source's")
    fields |= {"graph": None if atoms_only else graph, "options": dict(pairs)}
    if workers is not None and workers < 1:
        raise InputError(f"--workers: must be at least 1 (got {workers})")
    spec = Document("hpc_kit data prepare", fields, {}).check(Prepare)
    print(summary(out, prepare_from(spec, workers)))


@data.command("info", epilog="Example: hpc_kit data info data/qm9 --json")
def data_info(folder: SetArgument, as_json: JsonOption = False) -> None:
    """Show what a shard set holds: counts, sizes, histograms, targets with mean and mean absolute deviation."""
    from hpc_kit.data.inspect import info
    from hpc_kit.report.tables import print_shard_set

    found = info(folder)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_shard_set(found, _console())


@data.command("verify", epilog="Example: hpc_kit data verify data/qm9")
def data_verify(folder: SetArgument) -> None:
    """Read every byte of a shard set and compare it with its manifest."""
    from hpc_kit.data.inspect import verify

    problems = verify(folder)
    if problems:
        raise WorkError("\n".join(problems))
    print(f"{folder}: whole")


def _run_path(run: Path | None, name: str) -> Path:
    from hpc_kit.runs.layout import new_run_path

    return (run or new_run_path(RUNS, name)).absolute()


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

    console = _console()
    console.print(f"run: {run.path}", soft_wrap=True, highlight=False)
    show = progress(console)
    try:
        states = submit.drive(run, plan, site, show, parsl)
    finally:
        show.close()
    print_summary(summarize(run), console)
    if any(s.state != "done" for s in states):
        print_failures(run, states, console)
        raise WorkError(f"{sum(s.state != 'done' for s in states)} of {len(states)} tasks are not done")


def _console():
    from rich.console import Console

    return Console()


def _version(value: bool) -> None:
    if value:
        print(f"hpc_kit {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; turn the kinds of error into a message and an exit code."""
    try:
        app()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except WorkError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except Preempted as reason:
        print(reason, file=sys.stderr)
        sys.exit(PREEMPTED)
    except ModuleNotFoundError as error:
        if error.name not in NODE_PACKAGES:
            raise
        print(f"{error.name} is not installed: on a node, pip install 'hpc-kit[node]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
