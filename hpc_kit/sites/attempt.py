"""One attempt at a task, as a worker of Parsl runs it on the node: the block's time, the nodes, the command line.

Not for: watching the process (runs/process.py).
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from hpc_kit.files import write_atomically
from hpc_kit.ranks import is_launched
from hpc_kit.runs.fingerprint import IMAGE_SHA256
from hpc_kit.runs.layout import task_directory
from hpc_kit.runs.process import supervise, why_block_ends
from hpc_kit.sites.launch import hostfile_text, task_command, task_environment
from hpc_kit.spec.walltime import in_seconds, in_words

BLOCK_BEGAN = "HPC_KIT_BLOCK_BEGAN"  # a file that the block's script touches first
BLOCK_TIME = "HPC_KIT_BLOCK_TIME"  # the seconds that the block has from then on
BLOCK_END = "HPC_KIT_BLOCK_END"  # seconds since 1970 on the node's own clock: when the scheduler ends the block
RELEASE_S = 60.0  # for the process of an attempt before, whose worker was lost, to write its checkpoint and end
NODES = "PARSL_MPI_NODELIST"  # the nodes that Parsl gives to a task of several


def run_attempt(
    folder: str, attempt: int, driver: tuple[int, float] | None, parsl_resource_specification: dict | None = None
) -> dict[str, Any]:
    """Run the task in `folder` once, if the block it is in still has time for it, and return what exit.json holds.

    Where the block has not, or is ending, nothing is started, "ended" is "no time", and `why` says why. `block` is
    Parsl's name of the block. A task's time is `resources.walltime` from its start; on the local site it has none,
    but where that is inside a block. Parsl reads and passes the last argument.
    """
    directory = task_directory(Path(folder))
    task, site = directory.read_task(), directory.run.read_site()
    local, limit = site.scheduler == "local", in_seconds(task.resources.walltime)
    end = float(os.environ.get(BLOCK_END, "inf"))
    block = os.environ.get("PARSL_WORKER_BLOCK_ID")
    left = end - time.time()
    if not local and (left < limit or (ending := why_block_ends())):
        short = f"{in_words(max(0, int(left)))} are left of it, and a task may take {task.resources.walltime}"
        why = f"{socket.gethostname()}: {short if left < limit else ending}"
        return {"attempt": attempt, "exit_code": None, "ended": "no time", "block": block, "why": why}
    until = time.monotonic() + RELEASE_S
    while directory.lock.is_held() and time.monotonic() < until:
        time.sleep(0.5)
    nodes = os.environ.get(NODES, "").split(",") if task.resources.nodes > 1 else []
    if site.launcher == "openmpi" and nodes:
        write_atomically(directory.hostfile, hostfile_text(task.resources, nodes).encode())
    argv = task_command(site, task, directory, nodes, is_launched())
    environment = task_environment(site, task.resources)
    if sha256 := directory.run.read_image().get("sha256"):
        environment[IMAGE_SHA256] = sha256
    deadline = end if local else time.time() + limit
    return supervise(argv, environment, directory, attempt, driver, deadline if deadline < float("inf") else None) | {
        "block": block
    }
