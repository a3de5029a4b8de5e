"""The node side's entrance: reads the task and the ranks once, hands both to the room of the task's kind, writes down
why it stopped early, and done.json last."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hpc_kit import kinds
from hpc_kit.ranks import expect_ranks
from hpc_kit.runs.layout import TaskDir, task_directory
from hpc_kit.runs.process import ATTEMPT
from hpc_kit.spec.errors import InputError, Preempted


def run_task(folder: Path) -> None:
    """Run the task in `folder` from wherever an earlier attempt left it; of several ranks each calls this.

    Raises InputError where the input is wrong, WorkError where the work failed, Preempted where it stopped early. All
    of it is said in failed.json or stopped.json too, because what stands between may change an exit code; not by a
    process that is run by hand, beside which an attempt may be at work.
    """
    directory = task_directory(folder)
    try:
        _run(directory)
    except Preempted:
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk is in the log
            if ATTEMPT in os.environ:
                directory.write_failed(error)
        raise


def _run(directory: TaskDir) -> None:
    task = directory.read_task()
    ranks = expect_ranks(task.resources.nodes * task.resources.ranks_per_node)
    if ranks.size > 1:
        head = ranks.head if ranks.rank else ""
        sys.stdout, sys.stderr = _Headed(sys.stdout, head), _Headed(sys.stderr, head)
    if ranks.rank > 0:
        if not directory.is_done():
            kinds.node_side(task.kind).run(task, directory, ranks)
        return
    if directory.is_done():
        print(f"{task.id}: is done already")
        return
    with _alone(directory):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {task.id} ({task.label}) pid {os.getpid()}", flush=True)
        directory.stopped.unlink(missing_ok=True)
        try:
            kinds.node_side(task.kind).run(task, directory, ranks)
        except Preempted as stop:
            directory.write_stopped(stop.cause, str(stop))
            raise
        directory.write_done(task.schema_version)


@contextlib.contextmanager
def _alone(directory: TaskDir) -> Iterator[None]:
    """Hold the task's lock. Raises InputError where another process has it."""
    lock = directory.lock
    if not lock.acquire():
        raise InputError(f"{directory.path}: another process ({lock.holder().get('pid')}) works on this task")
    try:
        directory.remove_leftovers()
        yield
    finally:
        lock.release()


class _Headed:
    """A text stream whose lines begin with `head` and are written whole: all ranks write to one log."""

    def __init__(self, stream: TextIO, head: str):
        self._stream, self._head, self._rest = stream, head, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._head}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
