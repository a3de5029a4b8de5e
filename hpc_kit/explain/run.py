"""Explains what models predict, a piece of the input at a time, and leaves what is done alone when started again. The
node side of kind "explain"."""

import os

from hpc_kit import machine
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.rejects import write_rejects
from hpc_kit.explain.job import told_lines
from hpc_kit.files import remove_leftovers, write_json
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import InputError, Preempted


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Explain to the end, from where earlier attempts came. Raises Preempted, InputError, WorkError."""
    from pathlib import Path

    import torch

    from hpc_kit.explain.study import Study
    from hpc_kit.train.distributed import Group

    work = task.work
    if ranks.size > 1:
        raise InputError("a task of kind 'explain' is one process: start it without a launcher, or on one rank")
    machine.keep_freed_memory()
    cores = task.resources.cpus_per_rank
    torch.set_num_threads(cores)
    if work.dataset_sha256 and read_manifest(Path(work.explain.input[0])).sha256 != work.dataset_sha256:
        raise InputError(f"{work.explain.input[0]}: changed since this task was planned; submit the job anew")
    for folder in (directory.parts, directory.path / "pictures"):
        remove_leftovers(*([folder] if folder.is_dir() else []))
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        study = Study(work.explain, work.models, work.target, directory.path, group.device)

        def between(done: int, seconds: float) -> None:
            watch.stepped(seconds)
            directory.write_progress(done, max(done, work.amount()[0]), "structures")
            if why := watch.asked():
                raise Preempted(f"{why}; {done} structures are explained", watch.cause)

        done = study.maps(cores if cores > 1 else 0, between)
        metrics = study.finish(done)
    write_rejects(directory.path, [reject for one in done for reject in one.rejects])
    write_json(directory.metrics, metrics)
    print("\n".join(told_lines(metrics)), flush=True)
