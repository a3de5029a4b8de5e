"""The summary of a run: what its kind has to say of it, and what it has used of an allocation."""

from typing import Any

from rich.console import Console

from hpc_kit import kinds
from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.runs.used import used
from hpc_kit.sites.policy import estimate, plan_blocks


def summarize(run: RunDir) -> dict[str, Any]:
    """Return what the room of the run's kind says of it, and what the run has used. Raises InputError."""
    plan = run.read_plan()
    run.require_tasks()
    states = {status.id: status for status in read_statuses(run)}
    spent = used(run)
    room = kinds.login_side(plan.kind)
    said = room.summarize(run, plan.tasks, states, spent.tasks if spent else {})
    found = {"run": str(run.path), "kind": plan.kind, **said}
    if spent:
        found["charge"] = {"unit": spent.unit, "used": spent.run, "at_most": _at_most(run, plan)}
    return found


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print the summary as its kind does, the charge, and the path of the run."""
    kinds.login_side(summary["kind"]).print_summary(summary, console)
    if charge := summary.get("charge"):
        text = f"{charge['used']:.3g} {charge['unit']} used, of at most {charge['at_most']:.3g} estimated"
        console.print(text, soft_wrap=True, highlight=False)
    console.print(f"run: {summary['run']}", soft_wrap=True, highlight=False)


def _at_most(run: RunDir, plan: Plan) -> float:
    site, total = run.read_site(), 0.0
    for part in plan.by_resources():
        resources, tasks = part.tasks[0].resources, len(part.tasks)
        total += estimate(site, resources, tasks, plan_blocks(site, resources, tasks)).total
    return total
