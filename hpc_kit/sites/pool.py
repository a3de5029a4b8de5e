"""Parsl's worker pool on a node, with what it lacks: `python -m hpc_kit.sites.pool GPUS_A_TASK POOL_ARGUMENTS...`.

- A scheduler's warning goes to the tasks, which write a checkpoint and end, while Parsl's pool stays to report them:
  it is made deaf to it, for it would die at once and take them along. No task is started after the warning.
- The GPUs are those that the scheduler gave to the block, by their names here, not 0, 1, 2.
- Tasks whose worker has died are ended in order before the block is, and exit.json says why.
- Its temporary files lie in a folder of its own with a short path: names of sockets have an end. The next removes it.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from hpc_kit import machine
from hpc_kit.files import write_atomically
from hpc_kit.lock import server_time
from hpc_kit.ranks import LAUNCHERS
from hpc_kit.runs.process import (
    AT_WORK,
    BLOCK_ENDING,
    GRACE_S,
    TMPDIR_OF_TASKS,
    WARNINGS,
    end_processes,
    end_with_parent,
    keep_orphans,
    send,
)
from hpc_kit.sites.attempt import BLOCK_BEGAN, BLOCK_END, BLOCK_TIME
from hpc_kit.sites.outcome import BLOCK_WARNED, POOL_DIED

POLL_S = 0.2
PARSL_GRACE_S = 1.0
PREFIX = "hpc_kit-pool-"
SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (a folder of its own, closed to others, is made there)
LONGEST = 60  # a socket's name may have 107 characters; what is put behind the folder has up to 45
LAST_WORD_S = 15.0  # after tasks that were warned: for results to be sent, and for the scheduler to end the block


def run_pool(gpus_a_task: int, arguments: list[str]) -> int:
    """Run Parsl's worker pool to its end and return its exit code."""
    keep_orphans()
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
    environment |= block_end(environment)
    with temporary_folder() as folder:
        environment |= temporary_places(folder) | {BLOCK_ENDING: str(folder / "ending")}
        pool = subprocess.Popen(argv, env=environment, preexec_fn=_deaf)
        _attend(pool, folder / "ending", warned)
        end_processes(_tasks, GRACE_S)
        end_processes(lambda: _living(psutil.Process().children(recursive=True)), PARSL_GRACE_S)
    return pool.returncode


def _attend(pool: subprocess.Popen, ending: Path, warned: list[float]) -> None:
    """Wait for the end of Parsl's pool, hand a warning on to the tasks, and say in `ending` why they end.

    A scheduler that warns the tasks too may have ended them before the first look after its warning. The marks of
    attempts (runs/process.py) tell so, and the pool stays as for tasks that it has ended itself.
    """
    told: set[psutil.Process] = set()
    stay_until = None
    while pool.poll() is None:
        tasks = _tasks()
        if warned:
            if not ending.exists():
                write_atomically(ending, BLOCK_WARNED.encode())
            for task in set(tasks) - told:  # one may have been starting at the warning
                send(task, signal.SIGTERM)
                told.add(task)
            if tasks or (stay_until is None and any(ending.parent.glob(f"{AT_WORK}*"))):
                stay_until = time.monotonic() + LAST_WORD_S
            if not tasks and (stay_until is None or time.monotonic() > stay_until):
                pool.kill()
        time.sleep(POLL_S)
    if not warned:
        write_atomically(ending, POOL_DIED.encode())


def block_end(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that says when the block ends, by this node's own clock; {} outside a block.

    The time since the block began is measured on the file server's clock, because those of nodes may differ.
    """
    if BLOCK_TIME not in environment:
        return {}
    here, used = time.time(), 0.0
    began = Path(environment[BLOCK_BEGAN])
    with contextlib.suppress(OSError):
        used = max(0.0, server_time(began.parent) - began.stat().st_mtime)
    return {BLOCK_END: f"{here + float(environment[BLOCK_TIME]) - used:.0f}"}


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder of this process alone with a short path, and remove those that killed pools have left."""
    parents = [Path(tempfile.gettempdir()), *map(Path, SHORT)]
    parent = next((p for p in parents if len(str(p)) <= LONGEST and os.access(p, os.W_OK | os.X_OK)), parents[0])
    _remove_left(parent)
    name = f"{PREFIX}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=name, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def temporary_places(folder: Path) -> dict[str, str]:
    """Return the variables that say where temporary files go: Parsl's into `folder`, since a killed pool leaves some;
    those of tasks where the user wants them, by a link in `folder` where that is too long for names of sockets."""
    wanted = os.environ.get("TMPDIR", "")
    if len(wanted) > LONGEST and Path(wanted).is_dir():
        (folder / "tmp").symlink_to(wanted)
        wanted = str(folder / "tmp")
    return {"TMPDIR": str(folder), TMPDIR_OF_TASKS: wanted}


def _remove_left(parent: Path) -> None:
    """Remove the folders of pools of this user that have ended. A process that is younger than the last change in a
    folder is another with the same number."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            state, owner = path.lstat(), int(path.name.removeprefix(PREFIX).partition("-")[0])
            gone = psutil.Process(owner).create_time() > state.st_mtime + 1.0
        except psutil.NoSuchProcess:
            gone = True
        except (OSError, ValueError):
            continue  # gone meanwhile, or not a name that is given here
        if gone and state.st_uid == os.getuid() and stat.S_ISDIR(state.st_mode):
            shutil.rmtree(path, ignore_errors=True)


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
