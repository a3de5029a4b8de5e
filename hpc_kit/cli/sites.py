"""Commands about sites: list, show, check."""

import json
from typing import Annotated

import typer

from hpc_kit.cli.options import AccountOption, JsonOption, PartitionOption, console
from hpc_kit.spec.errors import WorkError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="A site by name, or a site file.")]


@app.command("list", epilog="Example: hpc_kit sites list")
def sites_list(as_json: JsonOption = False) -> None:
    """List the sites that ship and your own in ~/.config/hpc_kit/sites."""
    from hpc_kit.report.sites import print_sites
    from hpc_kit.spec.site import site_files

    files = site_files()
    if as_json:
        print(json.dumps({name: str(file) for name, file in files.items()}, indent=2))
    else:
        print_sites(files, console())


@app.command("show", epilog="Example: hpc_kit sites show delta")
def sites_show(site: SiteArgument, as_json: JsonOption = False) -> None:
    """Show a site as resolved: its partitions, limits, charges and options."""
    from hpc_kit.spec.site import load_site

    found = load_site(site)
    if as_json:
        print(json.dumps(found.model_dump(), indent=2))
    else:
        from hpc_kit.report.sites import print_site

        print_site(found, console())


@app.command("check", epilog="Example: hpc_kit sites check delta --account abcd-delta-gpu --on-a-node")
def sites_check(
    site: SiteArgument,
    account: AccountOption = None,
    partition: PartitionOption = None,
    job: Annotated[str | None, typer.Option(help="A job file: its image is checked, and its limits.")] = None,
    on_a_node: Annotated[
        bool, typer.Option("--on-a-node", help="Look from a compute node too; waits for one.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Submit a small job too, of the size of --job, and wait for it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check commands, account, folders, network and image of a site, from here and from one of its nodes.

    With --probe also what only a job can tell: the wait in the queue, the start, the run directory's speed, the GPUs
    seen, what a sum over the ranks takes.
    """
    from dataclasses import asdict

    from hpc_kit.checks import Check
    from hpc_kit.plan import make_plan
    from hpc_kit.report.checks import print_checks
    from hpc_kit.sites.check import check
    from hpc_kit.spec.job import load_job
    from hpc_kit.spec.site import load_site
    from hpc_kit.submit import prepare

    machine = load_site(site, account, partition)
    plan = make_plan(load_job(job)) if job is not None else None
    found = check(machine, plan.tasks[0].image if plan else None, on_a_node)
    if plan:
        broken = prepare(machine, plan)[1]
        found += [Check("job", "fail", problem) for problem in broken] or [Check("job", "pass", "within all limits")]
    if probe:
        from hpc_kit.cli.runs import RUNS
        from hpc_kit.report.progress import Lines
        from hpc_kit.submit import try_site

        found += try_site(machine, plan, RUNS, Lines(console(stderr=True)))
    if as_json:
        print(json.dumps([asdict(c) for c in found], indent=2))
    else:
        print_checks(found, console())
    if failed := sum(c.state == "fail" for c in found):
        raise WorkError(f"{failed} of {len(found)} checks failed")
