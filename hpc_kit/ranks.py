"""Which of how many processes this one is, from what its launcher tells it. One table, no guesses."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hpc_kit.spec.errors import InputError

# What each launcher sets: rank, number of ranks, rank on the node, ranks on the node. A launcher is at work where all
# of its variables are there. The innermost comes first: Open MPI, Hydra and PALS may be started by srun, and torchrun
# by any of them. Slurm's are those of a step: a batch script has SLURM_NTASKS too, and is one process all the same.
LAUNCHERS = {
    "hpc_kit": ("HPC_KIT_RANK", "HPC_KIT_SIZE", "HPC_KIT_LOCAL_RANK", "HPC_KIT_LOCAL_SIZE"),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "PALS": ("PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    "MPICH, Hydra": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}  # fmt: skip

TIMEOUT = "HPC_KIT_TIMEOUT_S"  # seconds: for ranks to come, and for a collective to end


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `size`, `local_rank` of the `local_size` on its node; `launcher` "" is none."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = ""

    @property
    def head(self) -> str:
        """What this rank's lines begin with in a log that all ranks write to."""
        return f"rank {self.rank}: " if self.size > 1 else ""


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return this process's place: 0 of 1 where no launcher is at work."""
    for launcher, names in LAUNCHERS.items():
        values = [environment.get(name) for name in names]
        if None not in values:
            if launcher == "srun":
                values[3] = _tasks_of_node(values[3], int(environment.get("SLURM_NODEID", 0)))
            return Ranks(*map(int, values), launcher)
    return Ranks()


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a launcher has started this process as one of several; around a worker of Parsl it has started
    workers."""
    return find_ranks(environment).size > 1 and "PARSL_WORKER_BLOCK_ID" not in environment


def expect_ranks(size: int, environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return this process's place among `size` ranks. Raises InputError where its launcher started another number."""
    found = find_ranks(environment)
    if found.size == size:
        return found
    if found.size > 1:
        raise InputError(
            f"the task asks for {_count(size)} (resources.nodes x resources.ranks_per_node) and {found.launcher}"
            f" started {found.size}: start as many, or change the job's resources"
        )
    told = f"{found.launcher} says that it is the only one" if found.launcher else "nothing tells it of any other"
    known = "; ".join(f"{launcher} {names[0]}, {names[1]}" for launcher, names in LAUNCHERS.items())
    raise InputError(
        f"the task asks for {_count(size)} (resources.nodes x resources.ranks_per_node) and this process is rank 0"
        f" of 1: {told}. Either the command was not started under a launcher, or the launcher's MPI or PMI is not the"
        f" one its processes look for. Each launcher sets rank and size: {known}"
    )


def timeout_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return how long ranks wait for each other, in s. Raises InputError where the user has set no number."""
    text = environment.get(TIMEOUT, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InputError(f"{TIMEOUT}={text}: must be a number of seconds, as in {TIMEOUT}=600")
    return seconds


def _count(size: int) -> str:
    return "1 rank" if size == 1 else f"{size} ranks"


def _tasks_of_node(tasks_per_node: str, node: int) -> int:
    """Return one node's number out of Slurm's list of them: "4(x2),3" is 4, 4 and 3."""
    for tasks, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks_per_node):
        node -= int(repeated or 1)
        if node < 0:
            return int(tasks)
    raise InputError(f"SLURM_STEP_TASKS_PER_NODE={tasks_per_node} does not hold node SLURM_NODEID={node}")
