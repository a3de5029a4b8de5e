"""Counts, keeps the count and sleeps; measures first what its job asks for. The node side of kind "probe"."""

import os
import signal
import socket
import time
from typing import Any

from hpc_kit import machine
from hpc_kit.files import write_json
from hpc_kit.plan import Task
from hpc_kit.probe.job import Probe
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import Preempted, WorkError

REPEATS = 5


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Count to the end, from where progress.json says that an earlier attempt came. Raises Preempted, WorkError."""
    probe = task.work.probe
    with Watch() as watch:
        found = _measure(task, directory, ranks)
        watch.stepped(max(probe.step_s, probe.stop_s))
        for done in range(directory.read_progress().get("done", 0), probe.steps):
            if why := watch.asked():
                cause = watch.cause
                time.sleep(probe.stop_s)
                raise Preempted(f"{why}; {done} of {probe.steps} steps are done", cause)
            time.sleep(probe.step_s)
            if ranks.rank == 0:
                directory.write_progress(done + 1, probe.steps, "steps")
                print(f"step {done + 1}/{probe.steps}", flush=True)
    if probe.ends == "failed":
        raise WorkError("it was asked to fail (probe.ends)")
    if probe.ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if ranks.rank == 0:
        write_json(directory.metrics, found)


def _measure(task: Task, directory: TaskDir, ranks: Ranks) -> dict[str, Any]:
    probe = task.work.probe
    found = {
        "began_at": time.time(),
        "host": socket.gethostname(),
        "ranks": ranks.size,
        "launcher": ranks.launcher,
        "cores": machine.usable_cores(),
        "gpus": machine.gpus()[0],
        "write_mb_s": None,
        "read_mb_s": None,
        "allreduce_gb_s": None,
    }
    if probe.memory_gb:
        bytearray(b"\1") * int(probe.memory_gb * 2**30)  # touched, not only promised
    if probe.file_mb and ranks.rank == 0:
        found |= _file(directory, probe.file_mb)
    if probe.allreduce_mb:
        found |= _all_reduce(task, directory, ranks, probe)
    return found


def _file(directory: TaskDir, megabytes: int) -> dict[str, float]:
    """Return MB/s of writing a file to the disk, and of reading it again after the cache was told to forget it."""
    path, piece = directory.path / "probe.bin", os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        reading = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        read = time.perf_counter()
    finally:
        path.unlink(missing_ok=True)
    size = megabytes * 1.048576
    return {"write_mb_s": size / (written - began), "read_mb_s": size / (read - reading)}


def _all_reduce(task: Task, directory: TaskDir, ranks: Ranks, probe: Probe) -> dict[str, Any]:
    """Return how much a second the ranks sum: the size of the data over the fastest of REPEATS sums."""
    import torch

    from hpc_kit.train.distributed import Group

    with Group.open(task, directory, ranks) as group:
        values = torch.ones(probe.allreduce_mb << 18, device=group.device)
        times = []
        for _ in range(REPEATS + 1):  # the first one makes the connections
            group.barrier()
            began = time.perf_counter()
            total = group.sum(values)
            total[0].item()  # waits for the device
            times.append(time.perf_counter() - began)
        if float(total[0]) != group.size:
            raise WorkError(f"the sum of ones over {group.size} ranks is {float(total[0])}")
    return {"allreduce_gb_s": probe.allreduce_mb * 2**20 / 1e9 / min(times[1:])}
