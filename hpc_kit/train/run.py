"""Trains one task on this rank. The node side of kind "train"."""

import os

from hpc_kit import machine
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Train, validate every epoch, test with the best weights; leave all records of the task but done.json.

    Raises Preempted, with a checkpoint written, where the scheduler wants the machine back.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a rank's end is told once, in words, not in C++ frames
    import torch  # after the cheap checks

    from hpc_kit.runs.preempt import Watch
    from hpc_kit.train.distributed import Group
    from hpc_kit.train.loop import Training

    machine.keep_freed_memory()
    torch.set_num_threads(task.resources.cpus_per_rank)
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        Training(task, directory, group, watch, os.environ).run()
