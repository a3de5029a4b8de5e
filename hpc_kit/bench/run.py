"""Times the epochs of one task on this rank. The node side of kind "benchmark"."""

import os
import statistics

from hpc_kit import machine
from hpc_kit.bench.order import median_interval, relative_width
from hpc_kit.files import write_json
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import WorkError


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Train until enough epochs are timed; leave epochs.jsonl and metrics.json. Raises Preempted, WorkError."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch  # after the cheap checks

    from hpc_kit.runs.preempt import Watch
    from hpc_kit.train.distributed import Group
    from hpc_kit.train.loop import Training

    machine.keep_freed_memory()
    torch.set_num_threads(task.resources.cpus_per_rank)
    asked = task.work.benchmark
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        training = Training(task, directory, group, watch, os.environ)
        lines = []
        for record in training.epochs():
            lines.append(record)
            walls = [line["wall_s"] for line in lines[asked.warmup_epochs :]]
            width = relative_width(walls)
            narrow = len(walls) >= asked.min_epochs and width is not None and width <= asked.width
            if group.any(narrow or sum(line["wall_s"] for line in lines) > task.work.budget_s(task.resources)):
                break
        if len(walls) < asked.min_epochs:
            raise WorkError(f"benchmark.budget ended after {len(walls)} epochs; min_epochs is {asked.min_epochs}")
        if group.is_main:
            median = statistics.median(walls)
            metrics = {
                "median_epoch_s": median,
                "interval": median_interval(walls),
                "width": width,
                "epochs": len(walls),
                "warmup_epochs": asked.warmup_epochs,
                "cache": asked.cache,
                "unfit": [],
                "graphs_per_s": record["graphs"] / median,
            }
            write_json(directory.metrics, metrics)
