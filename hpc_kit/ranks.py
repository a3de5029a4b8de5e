"""Which of how many processes this one is, from what its launcher tells it. One table, no guesses."""

import os
from collections.abc import Mapping

# (rank, number of ranks) of each launcher. Slurm's are those of a step: a batch script has SLURM_NTASKS too, and is
# one process all the same.
_LAUNCHERS = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MPICH, Hydra": ("PMI_RANK", "PMI_SIZE"),
    "PALS": ("PALS_RANKID", "PALS_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "torchrun": ("RANK", "WORLD_SIZE"),
}


def rank_and_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (rank, number of ranks): (0, 1) where no launcher is at work."""
    for rank, size in _LAUNCHERS.values():
        if rank in environment and size in environment:
            return int(environment[rank]), int(environment[size])
    return 0, 1
