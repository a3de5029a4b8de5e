"""What a submission is going to do: tasks, limits, cost, the script of a block and every command line."""

import shlex
from pathlib import Path

from hpc_kit.plan import Plan
from hpc_kit.report.sites import print_estimate
from hpc_kit.runs.layout import RunDir
from hpc_kit.sites.launch import check_command, shell_line, task_command, task_environment
from hpc_kit.sites.policy import BlockPlan, estimate, notes, slots
from hpc_kit.sites.schedulers import scheduler_of
from hpc_kit.sites.script import block_script, make_block, on_each_node, pool_command
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site


def print_plan(plan: Plan, site: Site, path: Path, blocks: list[BlockPlan | None], problems: list[str]) -> None:
    """Print all of it, part after part of `plan.by_resources()` with its `blocks`; nothing is started."""
    print(f"run: {path}")
    print(f"site: {site.name} ({site.description})")
    print(f"{len(plan.tasks)} tasks; nothing was started")
    for problem in problems:
        print(f"problem: {problem}")
    parts = plan.by_resources()
    for place, (part, those) in enumerate(zip(parts, blocks, strict=True)):
        if len(parts) > 1:
            when = ", once those before have ended" if place else ""
            print(f"\n{_size(part.tasks[0].resources)}{when}:")
        _print_part(part, site, path, those)


def _print_part(plan: Plan, site: Site, path: Path, blocks: BlockPlan | None) -> None:
    resources = plan.tasks[0].resources
    at_a_time = slots(site, resources) if blocks is None else blocks.slots * blocks.blocks
    print(f"{at_a_time} at a time")
    if blocks is not None:
        print_estimate(estimate(site, resources, len(plan.tasks), blocks))
        for note in notes(site, resources, blocks):
            print(f"note: {note}")
        print(f"\nthe script of a block, of which at most {blocks.blocks} are there at a time")
        print("(KEY and ARGUMENTS, those of Parsl's worker pool, are known once the run has begun):\n")
        print(_indented(example_script(site, plan, RunDir(path), blocks)))
    nodes = [f"NODE{i + 1}" for i in range(resources.nodes)] if resources.nodes > 1 else []
    for task in plan.tasks:
        command = task_command(site, task, RunDir(path).task(task.id), nodes)
        print(f"\n{task.id}  {task.label}\n  {shell_line(command, task_environment(site, task.resources))}")


def _size(resources: Resources) -> str:
    nodes, ranks, cores = resources.size
    return f"tasks of {cores} cores, {ranks} {'rank' if ranks == 1 else 'ranks'}, nodes: {nodes}"


def example_script(site: Site, plan: Plan, run: RunDir, blocks: BlockPlan) -> str:
    """Return the script of the first block, KEY in its name and the ARGUMENTS of Parsl's worker pool left open."""
    resources, folder = plan.tasks[0].resources, run.block_scripts
    block = make_block(site, blocks, "hk-KEY-0", folder)
    command = pool_command(resources, "ARGUMENTS")
    command = on_each_node(site, block, command) if resources.nodes == 1 else command
    check = shlex.join(check_command(site, plan.tasks[0], run.task(plan.tasks[0].id)))
    return block_script(scheduler_of(site, folder), site, block, command, check)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip()
