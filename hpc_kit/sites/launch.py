"""Command lines: launcher x container x ranks, from a site, resources and a task directory to an argv list. Pure.

Not for: the scripts of blocks (provider.py), or running anything.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.process import ATTEMPT, DEADLINE, JOB
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import NODE_LOCAL, Container, Site

# A site's --export=NONE for a job would be handed on to its steps.
_SRUN = ("--mpi=none", "--export=ALL")


def task_command(
    site: Site, task: Task, folder: TaskDir, nodes: Sequence[str] = (), launched: bool = False
) -> list[str]:
    """Return the argv that runs `task` in `folder`, all its ranks, on `nodes` (none named: the node at hand).

    launched: a launcher has started this process and its like, each of which runs one rank. Without one, ranks on one
    node are started by this package, inside the container if there is one. Those of several nodes are started by the
    site's launcher, each in a container of its own.
    """
    resources, here = task.resources, task.image is None
    words = [*([sys.executable, "-m", "hpc_kit"] if here else ["hpc_kit"]), "task", str(folder.path)]
    inside = container(site, task, folder)
    if launched:
        return [*inside, *words]
    if resources.nodes > 1:
        outlives = task.work.outlives_ranks
        return [*over_nodes(site, resources, nodes, folder.hostfile, outlives), *inside, *words]
    if resources.ranks_per_node == 1:
        return [*inside, *words]
    python, alone = sys.executable if here else "python3", ["--outlive"] if task.work.outlives_ranks else []
    return [*inside, python, "-m", "hpc_kit.sites.local_ranks", *alone, str(resources.ranks_per_node), *words]


def over_nodes(
    site: Site, resources: Resources, nodes: Sequence[str], hostfile: Path, outlives: bool = False
) -> list[str]:
    """Return what the site's launcher is called with to start `resources.ranks_per_node` ranks on each of `nodes`.

    outlives: whether the other ranks go on where one dies, as far as the launcher can be told so (PALS: not known).
    """
    each, ranks, cpus = resources.ranks_per_node, resources.nodes * resources.ranks_per_node, resources.cpus_per_rank
    if site.launcher == "srun":
        gpus = [f"--gpus-per-node={each}"] if resources.gpus_per_rank else []
        size = [
            f"--nodes={resources.nodes}",
            f"--ntasks={ranks}",
            f"--ntasks-per-node={each}",
            f"--cpus-per-task={cpus}",
        ]
        end = ["--kill-on-bad-exit=0", "--wait=0", "--no-kill"] if outlives else ["--kill-on-bad-exit=1"]
        return ["srun", *size, *gpus, f"--nodelist={','.join(nodes)}", *_SRUN, *end]
    if site.launcher == "hydra":
        return ["mpiexec", "-n", str(ranks), "-ppn", str(each), "-hosts", ",".join(nodes), "-disable-auto-cleanup"]
    if site.launcher == "pals":
        binding = ["--cpu-bind", "depth", "--depth", str(cpus)]
        return ["mpiexec", "-n", str(ranks), "-ppn", str(each), "--hosts", ",".join(nodes), *binding]
    if site.launcher == "openmpi":
        names = ("PATH", "LD_LIBRARY_PATH", ATTEMPT, DEADLINE, JOB, *task_environment(site, resources))
        told = [word for name in names for word in ("-x", name)]
        place = ["--map-by", f"ppr:{each}:node:PE={cpus}", "--bind-to", "core"]
        end = ["--enable-recovery"] if outlives else []
        return ["mpirun", "-n", str(ranks), "--hostfile", str(hostfile), *end, *place, *told]
    raise ValueError(f"site {site.name} has no launcher for several nodes")


def container(site: Site, task: Task, folder: TaskDir) -> list[str]:
    """Return what stands before a command that runs in the task's image: [] without one.

    The run's directory and the data are shown inside under their own paths. Variables go in through the environment,
    where Apptainer finds those of task_environment. Raises InputError for a path that cannot be shown.
    """
    if task.image is None:
        return []
    how = site.container or Container()
    shown = [str(folder.home), *task.folders]
    if odd := [path for path in shown if {*path} & {*":,"}]:
        raise InputError(f"{odd[0]}: a container cannot be shown a path with ':' or ','; choose another")
    gpu = [f"--{how.gpu}"] if how.gpu and task.resources.gpus_per_rank else []
    binds = [*shown, *how.binds]
    return [
        how.command,
        "exec",
        *gpu,
        *(word for bind in dict.fromkeys(binds) for word in ("--bind", bind)),
        task.image,
    ]


def check_command(site: Site, task: Task, folder: TaskDir) -> list[str]:
    """Return what a block runs on its first node before any task: doctor's quick checks, where the tasks will run."""
    words = ["hpc_kit"] if task.image else [sys.executable, "-m", "hpc_kit"]
    return [*container(site, task, folder), *words, "doctor", "--quick", "--folder", str(folder.home)]


def task_environment(site: Site, resources: Resources) -> dict[str, str]:
    """Return the variables a task is started with, beside those it inherits."""
    variables = {"OMP_NUM_THREADS": str(resources.cpus_per_rank), "PYTHONUNBUFFERED": "1"}
    if site.node_local is not None:
        variables[NODE_LOCAL] = site.node_local
    inside = site.container.environment if site.container else {}
    return variables | site.environment | {f"APPTAINERENV_{name}": value for name, value in inside.items()}


def hostfile_text(resources: Resources, nodes: Sequence[str]) -> str:
    """Return Open MPI's list of nodes."""
    return "".join(f"{node} slots={resources.ranks_per_node}\n" for node in nodes)


def shell_line(argv: list[str], environment: dict[str, str]) -> str:
    """Return the command as one line that can be pasted into a shell."""
    return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in environment.items()), shlex.join(argv)])
