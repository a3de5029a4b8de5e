"""Command lines: from a site, resources and a task directory to an argv list. Pure functions."""

import shlex
import sys
from pathlib import Path

from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import NODE_LOCAL, Site


def task_command(folder: Path, resources: Resources) -> list[str]:
    """Return the argv that runs the task in `folder`, all its ranks, with this interpreter and this package."""
    launcher = [sys.executable, "-m", "hpc_kit.sites.local_ranks", str(resources.ranks_per_node)]
    command = [sys.executable, "-m", "hpc_kit", "task", str(folder)]
    return command if resources.ranks_per_node == 1 else [*launcher, *command]


def task_environment(site: Site, resources: Resources) -> dict[str, str]:
    """Return the variables a task is started with, beside those it inherits."""
    variables = {"OMP_NUM_THREADS": str(resources.cpus_per_rank), "PYTHONUNBUFFERED": "1"}
    if site.node_local is not None:
        variables[NODE_LOCAL] = site.node_local
    return variables | site.environment


def shell_line(argv: list[str], environment: dict[str, str]) -> str:
    """Return the command as one line that can be pasted into a shell."""
    return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in environment.items()), shlex.join(argv)])
