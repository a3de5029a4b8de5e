"""Maps what models have learned, one model after another; started again, it keeps the features that are whole. The
node side of kind "embed"."""

import os

from hpc_kit import machine
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.rejects import write_rejects
from hpc_kit.embed.job import told_lines
from hpc_kit.files import remove_leftovers, write_json
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import InputError, Preempted


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Map to the end, from where earlier attempts came. Raises Preempted, InputError, WorkError."""
    from pathlib import Path

    import torch

    from hpc_kit.embed.study import Study
    from hpc_kit.train.distributed import Group

    work = task.work
    if ranks.size > 1:
        raise InputError("a task of kind 'embed' is one process: start it without a launcher, or on one rank")
    machine.keep_freed_memory()
    cores = task.resources.cpus_per_rank
    torch.set_num_threads(cores)
    if work.dataset_sha256 and read_manifest(Path(work.embed.input[0])).sha256 != work.dataset_sha256:
        raise InputError(f"{work.embed.input[0]}: changed since this task was planned; submit the job anew")
    folder = directory.path / "features"
    remove_leftovers(*([folder] if folder.is_dir() else []), *(directory.path / f for f in ("map.json", "maps.csv")))
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        study = Study(work.embed, work.models, work.units, directory.path, group.device)

        def between(done: int, seconds: float) -> None:
            watch.stepped(seconds)
            directory.write_progress(done, max(done, work.amount()[0]), "structures")
            if why := watch.asked():
                raise Preempted(f"{why}; {done} structures have features", watch.cause)

        def later() -> None:
            if why := watch.asked():
                raise Preempted(f"{why}; the features are kept", watch.cause)

        found = study.features(cores if cores > 1 else 0, between)
        metrics = study.finish(found, later)
    write_rejects(directory.path, [reject for one in found for reject in one.rejects])
    write_json(directory.metrics, metrics)
    print("\n".join(told_lines(metrics)), flush=True)
