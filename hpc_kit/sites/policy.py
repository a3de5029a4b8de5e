"""What a site allows and what it costs: the blocks that tasks need, the limits they break, their charge. All of it is
worked out before anything is queued, from the site's file alone.

Not for: asking the scheduler or the file systems (check.py).
"""

import math
from dataclasses import dataclass

from hpc_kit import machine
from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Partition, Site
from hpc_kit.spec.walltime import in_seconds, in_words


def slots(site: Site, resources: Resources) -> int:
    """Return how many tasks run at a time. Raises InputError where not even one fits."""
    cores, gpus = machine.usable_cores(), machine.visible_gpus()
    ranks, cpus = resources.ranks_per_node, resources.cpus_per_rank
    if resources.nodes > 1:
        raise InputError(f"resources.nodes is {resources.nodes} but site {site.name!r} is one machine")
    if resources.gpus_per_rank and not gpus:
        raise InputError(
            "resources.gpus_per_rank is 1 but this machine shows no GPU;"
            " --set resources.gpus_per_rank=0 trains on the CPU"
        )
    if resources.gpus_per_rank and ranks > len(gpus):
        raise InputError(
            f"resources.ranks_per_node is {ranks}, each with a GPU, but this machine shows {len(gpus)};"
            f" --set resources.ranks_per_node={len(gpus)} fits"
        )
    if site.slots is None and ranks * cpus > cores:
        key, fits = ("cpus_per_rank", cores // ranks) if ranks <= cores else ("ranks_per_node", cores // cpus or 1)
        asked = f"resources.cpus_per_rank is {cpus}" + (f" for each of {ranks} ranks" if ranks > 1 else "")
        raise InputError(f"{asked} but {cores} cores are usable here; --set resources.{key}={fits} fits")
    if resources.exclusive:
        return 1
    by_cores = site.slots or cores // (ranks * cpus)
    return min(by_cores, len(gpus) // ranks) if resources.gpus_per_rank else by_cores


@dataclass(frozen=True)
class BlockPlan:
    """The blocks for a run's tasks: `blocks` of them at most at a time, each `nodes` of `partition` for `walltime_s`.

    `slots` tasks run at a time in a block, `rounds` of them one after the other. `cores`, `gpus` and `memory_gb` are
    asked of each node, which takes `ranks` processes at a time; with `whole_nodes` a node is paid and given whole.
    """

    partition: str
    nodes: int
    slots: int
    ranks: int
    cores: int
    gpus: int
    memory_gb: int
    whole_nodes: bool
    walltime_s: int
    blocks: int
    rounds: int


def plan_blocks(site: Site, resources: Resources, tasks: int) -> BlockPlan:
    """Return the blocks that `tasks` tasks of `resources` are run in. Raises InputError where not even one fits.

    Tasks of one node are packed: as many in a node as its cores, GPUs and memory hold. Tasks of several nodes get
    whole groups of nodes. A shared partition is asked for no more than the tasks at a time need. A task that is
    exclusive gets whole nodes, and has them to itself.
    """
    name = site.partition or _only(site)
    partition = site.partitions[name]
    fits = _tasks_in_a_node(name, partition, resources)
    fits = 1 if resources.exclusive else fits
    whole = partition.whole_nodes or resources.exclusive
    if resources.nodes == 1:
        nodes = partition.min_nodes
        per_node = min(fits, math.ceil(tasks / nodes))
        slots = nodes * per_node
    else:
        nodes = resources.nodes * math.ceil(partition.min_nodes / resources.nodes)
        per_node, slots = 1, nodes // resources.nodes
    ranks = per_node * resources.ranks_per_node
    gpus = partition.gpus if whole else ranks * resources.gpus_per_rank
    if partition.gpu_counts and gpus:
        gpus = next((count for count in sorted(partition.gpu_counts) if count >= gpus), gpus)
    cores = partition.cores if whole else ranks * resources.cpus_per_rank
    memory = partition.memory_gb if whole else _memory(partition, resources, ranks)
    blocks = max(1, min(site.max_blocks, partition.max_running or site.max_blocks, math.ceil(tasks / slots)))
    rounds = math.ceil(tasks / (blocks * slots))
    one, margin = in_seconds(resources.walltime), in_seconds(site.margin)
    most = max(1, (in_seconds(partition.max_walltime) - margin) // one)
    rounds = min(rounds, most)
    least = in_seconds(partition.min_walltime) if partition.min_walltime else 0
    walltime = max(rounds * one + margin, least)
    if one <= in_seconds(partition.max_walltime) < walltime and rounds == 1:
        walltime = in_seconds(partition.max_walltime)
    return BlockPlan(name, nodes, slots, ranks, cores, gpus, memory, whole, walltime, blocks, rounds)


def problems(site: Site, resources: Resources, plan: BlockPlan) -> list[str]:
    """Return every limit of the site that the plan breaks, a line each: what, by how much, and how to mend it."""
    partition, name = site.partitions[plan.partition], f"partition {plan.partition!r} of {site.name}"
    found = []
    if site.charge is not None and site.account is None:
        hint = f" (like {site.account_hint})" if site.account_hint else ""
        found.append(f"site {site.name!r} charges an account{hint}: name it with --account")
    found += [
        f"site {site.name!r}: its options hold no {text!r}: {reason}"
        for text, reason in site.needs.items()
        if not any(text in option for option in (*site.options, *partition.options))
    ]
    if partition.max_nodes is not None and plan.nodes > partition.max_nodes:
        found.append(f"{name} takes {_nodes(partition.max_nodes)} a job; the block asks for {plan.nodes}")
    if partition.nodes is not None and plan.nodes > partition.nodes:
        found.append(f"{name} has {_nodes(partition.nodes)}; the block asks for {plan.nodes}")
    one, most = in_seconds(resources.walltime), in_seconds(partition.max_walltime)
    if one > most:
        found.append(
            f"resources.walltime is {resources.walltime} and {name} allows {partition.max_walltime};"
            " with checkpoints a task may take several walltimes"
        )
    elif one + in_seconds(site.margin) > most:
        fits = in_words(most - in_seconds(site.margin))
        found.append(
            f"resources.walltime {resources.walltime} and the {site.margin} that a block needs to start and to end"
            f" are more than the {partition.max_walltime} of {name}; {fits} fits"
        )
    if resources.gpus_per_rank and not partition.gpus:
        found.append(f"{name} has no GPUs and resources.gpus_per_rank is 1: choose another with --partition")
    if partition.gpus and not resources.gpus_per_rank:
        found.append(
            f"{name} is for GPUs and resources.gpus_per_rank is 0: set it to 1, or choose another --partition"
        )
    if resources.nodes > 1 and site.launcher is None:
        found.append(f"site {site.name!r} has no launcher for tasks of several nodes")
    if partition.gpu_counts and plan.gpus not in partition.gpu_counts:
        counts = ", ".join(map(str, partition.gpu_counts))
        found.append(f"{name} gives {counts} GPUs of one node; the block asks for {plan.gpus}")
    return found


def notes(site: Site, resources: Resources, plan: BlockPlan) -> list[str]:
    """Return what a user may not expect of this site, a line each."""
    partition, found = site.partitions[plan.partition], []
    if site.retired:
        found.append(f"{site.name} was switched off: {site.retired}")
    if partition.preemptible:
        found.append(
            f"partition {plan.partition!r} is preemptible: a task that is preempted goes on from its checkpoint,"
            f" up to {resources.retries} times"
        )
    if partition.whole_nodes and resources.nodes == 1 and plan.ranks * resources.cpus_per_rank * 2 <= partition.cores:
        idle = partition.cores - plan.ranks * resources.cpus_per_rank
        found.append(f"nodes are given and charged whole: {idle} of {partition.cores} cores stay idle")
    if partition.note:
        found.append(partition.note)
    return found


@dataclass(frozen=True)
class Estimate:
    """What a run costs at most, with every task taking all of its walltime: `total` and `hourly` (of one block) in
    `unit`. `terms` are the hourly charge that each term alone comes to, the largest of which is `dominant`.
    `cheapest` is the partition where the same tasks are allowed and cost least, preemptible ones apart, None if it is
    this one;
    `preemptible` the cheapest of those."""

    unit: str
    hourly: float
    total: float
    hours: float
    dominant: str
    terms: dict[str, float]
    cheapest: tuple[str, float] | None
    preemptible: tuple[str, float] | None


def estimate(site: Site, resources: Resources, tasks: int, plan: BlockPlan) -> Estimate | None:
    """Return what `tasks` tasks cost at most in the blocks of `plan`; None where the site charges nothing."""
    if site.charge is None:
        return None
    terms = _terms(site, plan)
    hours, total = _at_most(site, resources, tasks, plan)
    others = {True: [], False: []}
    for name, partition in site.partitions.items():
        if name == plan.partition or _kind(partition) != _kind(site.partitions[plan.partition]):
            continue
        there = site.model_copy(update={"partition": name})
        try:
            other = plan_blocks(there, resources, tasks)
        except InputError:
            continue
        if not problems(there, resources, other):
            others[partition.preemptible].append((_at_most(there, resources, tasks, other)[1], name))
    cheapest, preemptible = (min(others[kind], default=None) for kind in (False, True))
    return Estimate(
        unit=site.charge.unit,
        hourly=max(terms.values()),
        total=total,
        hours=hours,
        dominant=max(terms, key=terms.get),
        terms=terms,
        cheapest=(cheapest[1], cheapest[0]) if cheapest and cheapest[0] < total else None,
        preemptible=(preemptible[1], preemptible[0]) if preemptible and preemptible[0] < total else None,
    )


def hourly_charge(site: Site, plan: BlockPlan) -> float | None:
    """Return what an hour of one block costs in the site's unit; None where the site charges nothing."""
    return None if site.charge is None else max(_terms(site, plan).values())


def _terms(site: Site, plan: BlockPlan) -> dict[str, float]:
    partition = site.partitions[plan.partition]
    used = {"nodes": 1, "gpus": plan.gpus, "cores": plan.cores, "memory_gb": plan.memory_gb}
    if plan.whole_nodes:
        used |= {"gpus": partition.gpus, "cores": partition.cores, "memory_gb": partition.memory_gb}
    per = partition.per or site.charge.per
    return {term: plan.nodes * used[term] / amount * partition.factor for term, amount in per.items()}


def _at_most(site: Site, resources: Resources, tasks: int, plan: BlockPlan) -> tuple[float, float]:
    """Return the hours of all blocks together and their charge, if every task takes its whole walltime."""
    rounds = math.ceil(tasks / plan.slots)
    starts = math.ceil(rounds / plan.rounds)
    hours = (rounds * in_seconds(resources.walltime) + starts * in_seconds(site.margin)) / 3600
    return hours, hours * max(_terms(site, plan).values())


def _kind(partition: Partition) -> str:
    """Return what an image must be made for: "cpu", "cuda" or "rocm"."""
    return "cpu" if not partition.gpus else "rocm" if "AMD" in (partition.gpu or "") else "cuda"


def _tasks_in_a_node(name: str, partition: Partition, resources: Resources) -> int:
    """Return how many tasks' ranks a node holds. Raises InputError where it holds none."""
    ranks = resources.ranks_per_node
    asked = {
        "cores": (ranks * resources.cpus_per_rank, partition.cores, "resources.cpus_per_rank"),
        "GPUs": (
            ranks * resources.gpus_per_rank if partition.gpus else 0,
            partition.gpus,
            "resources.ranks_per_node",
        ),
        "GB of memory": (ranks * (resources.memory_gb or 0), partition.memory_gb, "resources.memory_gb"),
    }
    for what, (wanted, there, key) in asked.items():
        if wanted > there:
            raise InputError(
                f"a task takes {wanted} {what} of a node and partition {name!r} has {there}; lower {key}"
            )
    return min(there // wanted for wanted, there, _ in asked.values() if wanted)


def _memory(partition: Partition, resources: Resources, ranks: int) -> int:
    """Return what `ranks` ranks ask of a node in GB: what they say, else the share that their cores or GPUs are."""
    if resources.memory_gb is not None:
        return ranks * resources.memory_gb
    shares = [ranks * resources.cpus_per_rank / partition.cores]
    if partition.gpus:
        shares.append(ranks * resources.gpus_per_rank / partition.gpus)
    return max(1, math.floor(partition.memory_gb * min(1.0, max(shares))))


def _only(site: Site) -> str:
    if len(site.partitions) > 1:
        raise InputError(f"site {site.name!r}: choose a partition with --partition; {allowed('', site.partitions)}")
    return next(iter(site.partitions))


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
