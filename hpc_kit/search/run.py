"""Searches on this rank: rank 0 manages, the others work. The node side of kind "search"."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from hpc_kit.data.manifest import read_manifest
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks, timeout_s
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.search.messages import Hub
from hpc_kit.search.worker import work
from hpc_kit.spec.errors import InputError, Preempted, WorkError


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Search until as many trials have ended as the job asks for; leave all records of the search but done.json.

    Raises Preempted, with the trials under way at a checkpoint, where the machine is wanted back.
    """
    timeout = timeout_s()
    with Watch(os.environ) as watch:
        if ranks.rank > 0:
            work(task, directory, ranks, watch, timeout)
            return
        from hpc_kit.search.manager import Manager  # loads the optimiser

        _check_data(task)
        trains = task.work.search.rank_0_trains
        hub = Hub(directory.rendezvous, ranks.local_size == ranks.size, "" if trains else socket.gethostname())
        with (
            contextlib.closing(hub),
            _working(task, directory, ranks, timeout) if trains else contextlib.nullcontext(),
        ):
            Manager(task, directory, ranks, hub, watch, timeout).run()


@contextlib.contextmanager
def _working(task: Task, directory: TaskDir, ranks: Ranks, timeout: float) -> Iterator[None]:
    """Have this rank work as well; the manager tells it of signals."""

    def serve() -> None:
        try:
            work(task, directory, ranks, None, timeout)
        except (InputError, WorkError, Preempted):
            return  # the manager knows it from the connection

    thread = threading.Thread(target=serve, name="worker")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _check_data(task: Task) -> None:
    """Raise InputError where the data set is not the one that the search was planned with: each trial would fail."""
    folder = Path(task.work.dataset)
    if (found := read_manifest(folder).sha256) != task.work.dataset_sha256:
        raise InputError(
            f"{folder}: is not the data set this search was planned with (sha256 {found[:12]}, planned"
            f" {task.work.dataset_sha256[:12]}); submit the job anew"
        )
