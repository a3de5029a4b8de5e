"""The node side's entrance: reads a task directory, calls the room for its kind, writes done.json last."""

import os
import time
from pathlib import Path

from hpc_kit.files import write_json
from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import InputError


def run_task(folder: Path) -> None:
    """Run the task in `folder` from wherever an earlier attempt left it.

    Raises InputError where the input is wrong, WorkError where the work failed.
    """
    directory = TaskDir(folder.resolve())
    task = directory.read_task()
    if directory.is_done():
        print(f"{task.id}: is done already")
        return
    lock = directory.lock
    if not lock.acquire():
        raise InputError(f"{folder}: another process ({lock.holder().get('pid')}) works on this task")
    try:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {task.id} ({task.label}) pid {os.getpid()}", flush=True)
        if task.kind == "prepare":
            _prepare(task, directory)
        else:
            from hpc_kit.train.loop import train  # torch is loaded here, after the cheap checks

            train(task, directory)
        finished = {"schema_version": task.schema_version, "id": task.id, "finished_at": time.time()}
        write_json(directory.done, finished)
    finally:
        lock.release()


def _prepare(task: Task, out: TaskDir) -> None:
    """Make a shard set and write down what came of it."""
    from hpc_kit.data.command import prepare_from, summary

    manifest = prepare_from(task.prepare, task.resources.cpus_per_rank)
    print(summary(Path(task.prepare.out), manifest), flush=True)
    write_json(
        out.metrics,
        {
            "out": task.prepare.out,
            "graphs": manifest.graphs,
            "rejected": manifest.rejected,
            "shards": len(manifest.shards),
            "bytes": sum(shard.bytes for shard in manifest.shards),
            "sha256": manifest.sha256,
        },
    )
