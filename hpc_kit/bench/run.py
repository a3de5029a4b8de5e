"""Times the epochs of one task on this rank, until their median is known well enough. The node side of kind
"benchmark".
"""

import os
from pathlib import Path

from hpc_kit import machine
from hpc_kit.bench.metrics import counted, metrics, why_enough
from hpc_kit.data.manifest import read_manifest
from hpc_kit.files import write_json
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import WorkError
from hpc_kit.spec.walltime import in_words


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Train until enough epochs are timed; leave epochs.jsonl and metrics.json. Raises Preempted, WorkError."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as a training does
    import torch  # after the cheap checks

    from hpc_kit.bench.timed import PageCache, TimedTraining
    from hpc_kit.runs.preempt import Watch
    from hpc_kit.train.distributed import Group

    machine.keep_freed_memory()
    torch.set_num_threads(task.resources.cpus_per_rank)
    asked, budget_s = task.work.benchmark, task.work.budget_s(task.resources)
    folder = Path(task.work.dataset)
    files = [folder / shard.file for shard in read_manifest(folder).shards]
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        training = TimedTraining(task, directory, group, watch, PageCache(task, files, ranks, group), os.environ)
        for _ in training.epochs():
            lines = directory.read_epochs() if group.is_main else []
            if group.any(group.is_main and why_enough(lines, asked, budget_s) is not None):
                break
        lines = directory.read_epochs() if group.is_main else []
        timed = counted(lines)
        if group.any(group.is_main and len(timed) < asked.min_epochs):
            raise WorkError(_too_few(asked, budget_s, lines if group.is_main else None))
        if group.is_main:
            found = metrics(lines, asked, why_enough(lines, asked, budget_s) or "max_epochs", training.open_s)
            write_json(directory.metrics, found)
            score = {"name": "median epoch", "value": found["median_epoch_s"], "unit": "s"}
            directory.write_progress(len(lines), len(lines), "epochs", score)


def _too_few(asked, budget_s: float, lines: list | None) -> str:
    """Return why what was timed is no benchmark; the main rank has the `lines`, and the log says how many."""
    if lines is not None:
        timed = len(counted(lines))
        last = lines[-1]["wall_s"] if lines else 0.0
        print(
            f"{timed} epochs were timed, after {len(lines) - timed} of warm-up; the last took {last:.3g} s",
            flush=True,
        )
    return (
        f"its budget of {in_words(budget_s)}, or its epochs where it was started again, ended before"
        f" benchmark.min_epochs ({asked.min_epochs}) were timed; raise benchmark.budget or take fewer warmup_epochs"
        " (log.txt says how long an epoch takes)"
    )
