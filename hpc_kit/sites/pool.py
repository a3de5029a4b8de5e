"""Parsl's worker pool on a node, with what it lacks: `python -m hpc_kit.sites.pool GPUS_A_TASK POOL_ARGUMENTS...`.

- A scheduler's warning goes to the tasks, which write a checkpoint and end, while Parsl's pool stays to report them:
  it is made deaf to it, for it would die at once and take them along. No task is started after the warning.
- The GPUs are those that the scheduler gave to the block, by their names here, not 0, 1, 2.
- Tasks whose worker has died are ended in order before the block is.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from hpc_kit import machine
from hpc_kit.ranks import LAUNCHERS
from hpc_kit.runs.process import GRACE_S, WARNINGS, end_processes, end_with_parent, keep_orphans, send
from hpc_kit.sites.attempt import BLOCK_ENDING

POLL_S = 0.2
PARSL_GRACE_S = 1.0
LAST_WORD_S = 15.0  # after a warning: for results to be sent, and for the scheduler to end the block itself


def run_pool(gpus_a_task: int, arguments: list[str]) -> int:
    """Run Parsl's worker pool to its end and return its exit code."""
    keep_orphans()
    ending = Path(tempfile.mkdtemp(prefix="hpc_kit-")) / "ending"
    warned: list[float] = []
    for number in WARNINGS:
        signal.signal(number, lambda *_: warned.append(time.monotonic()))
    argv = [sys.executable, "-m", "parsl.executors.high_throughput.process_worker_pool", *arguments]
    if gpus_a_task:
        found = machine.visible_gpus()
        if len(found) < gpus_a_task:
            print(f"a task takes {gpus_a_task} GPUs and this node shows {len(found)}: {found}", file=sys.stderr)
            return 1
        argv += ["--available-accelerators", *shares(found, gpus_a_task)]
    own = {name for names in LAUNCHERS.values() for name in names}  # of the step this pool is in, not of its tasks
    environment = {name: value for name, value in os.environ.items() if name not in own}
    pool = subprocess.Popen(argv, env=environment | {BLOCK_ENDING: str(ending)}, preexec_fn=_deaf)
    stay_until = None
    while pool.poll() is None:
        tasks = _tasks()
        if warned and stay_until is None:
            ending.touch()
            for task in tasks:
                send(task, signal.SIGTERM)
            stay_until = warned[0] + (LAST_WORD_S if tasks else 0.0)
        if stay_until is not None and not tasks and time.monotonic() > stay_until:
            pool.kill()
        time.sleep(POLL_S)
    end_processes(_tasks, GRACE_S)
    end_processes(lambda: _living(psutil.Process().children(recursive=True)), PARSL_GRACE_S)
    return pool.returncode


def _deaf() -> None:
    end_with_parent()
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def shares(gpus: list[str], gpus_a_task: int) -> list[str]:
    """Return the GPUs of each task at a time, as CUDA_VISIBLE_DEVICES names them: ["0,1", "2,3"]."""
    starts = range(0, len(gpus) - gpus_a_task + 1, gpus_a_task)
    return [",".join(gpus[i : i + gpus_a_task]) for i in starts]


def _tasks() -> list[psutil.Process]:
    """Return what leads the session of each task under the pool, which has none of its own."""
    found = []
    for process in _living(psutil.Process().children(recursive=True)):
        try:
            if os.getsid(process.pid) == process.pid:
                found.append(process)
        except OSError:
            continue  # it ended meanwhile
    return found


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    living = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
        except psutil.NoSuchProcess:
            continue
    return living


if __name__ == "__main__":
    sys.exit(run_pool(int(sys.argv[1]), sys.argv[2:]))
