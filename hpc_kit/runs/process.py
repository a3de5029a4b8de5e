"""Runs one attempt's process from start to end and watches it: what a worker does for the driver.

It ends the process and all its children when the run is cancelled, the driver dies or the time is over, so nothing is
orphaned, and leaves exit.json behind: the attempt's own word on how it ended.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from hpc_kit import machine
from hpc_kit.files import write_json
from hpc_kit.runs.layout import TaskDir

POLL_S = 0.25
GRACE_S = 30.0  # from SIGTERM to SIGKILL: for the step under way and a checkpoint
WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # what schedulers send before they end a job
DEADLINE = "HPC_KIT_DEADLINE"  # seconds since 1970 on the node's clock: when a task must have ended
BLOCK_ENDING = "HPC_KIT_BLOCK_ENDING"  # a file on the node that is there once its block is ending, and says why
AT_WORK = "at-work-"  # beside that file, before a task's id: an attempt is at work here, or a signal has ended it
WORD_WITHIN_S = 2.0  # how long after a signal that file may come
ATTEMPT = "HPC_KIT_ATTEMPT"  # which attempt at its task a process belongs to; not set for one that is run by hand
TMPDIR_OF_TASKS = "HPC_KIT_TMPDIR"  # what $TMPDIR is for a task, where its worker has another; "": not set
JOB = "HPC_KIT_JOB"  # the scheduler's id of the block that a task runs in
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)


def supervise(
    argv: list[str],
    environment: dict[str, str],
    task: TaskDir,
    attempt: int,
    driver: tuple[int, float] | None,
    deadline: float | None = None,
) -> dict:
    """Run `argv` with its output appended to the task's log and return exit.json's content.

    driver is (pid, time of birth) of the process to live and die with, where it is on this host. `deadline` (seconds
    since 1970) is told to the process, which should end before it, and is ended then. `ended` is "by itself",
    "cancelled", "driver gone" or "time over"; exit_code is None where the process never started. `told` is why the
    block was ending meanwhile, "" where it was not. `out_of_memory` tells whether the kernel ended a process of this
    task's control group for want of memory. What an earlier attempt said of its end is removed first.
    """
    if task.run.cancel_request.exists():
        return _leave(task, attempt, None, "cancelled", False)
    for word in (task.stopped, task.failed):
        word.unlink(missing_ok=True)
    mark = _mark(task)
    told = {ATTEMPT: str(attempt)} | ({} if deadline is None else {DEADLINE: f"{deadline:.0f}"})
    kills = machine.out_of_memory_kills()
    with task.log.open("ab") as log:
        process = subprocess.Popen(
            argv,
            env=_environment(environment | told),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    where = {"pid": process.pid, "host": socket.gethostname(), "job": os.environ.get(JOB)}
    write_json(task.process, {"attempt": attempt, **where, "started_at": time.time()})
    ended = "by itself"
    while ended == "by itself":
        try:
            process.wait(POLL_S)
            break
        except subprocess.TimeoutExpired:
            if task.run.cancel_request.exists():
                ended = "cancelled"
            elif driver is not None and not is_alive(*driver):
                ended = "driver gone"
            elif deadline is not None and time.time() > deadline:
                ended = "time over"
    end_session(process.pid)
    code = process.wait()
    if mark and ended == "by itself" and _was_stopped(task, code):
        until = time.monotonic() + WORD_WITHIN_S
        while not why_block_ends() and time.monotonic() < until:
            time.sleep(0.05)
    elif mark:
        mark.unlink(missing_ok=True)
    return _leave(task, attempt, code, ended, machine.out_of_memory_kills() > kills)


def _mark(task: TaskDir) -> Path | None:
    """Tell the pool on this node (sites/pool.py), where there is one, that an attempt is at work; return the file
    that does."""
    if BLOCK_ENDING not in os.environ:
        return None
    mark = Path(os.environ[BLOCK_ENDING]).with_name(f"{AT_WORK}{task.path.name}")
    with contextlib.suppress(OSError):
        mark.touch()
    return mark


def _was_stopped(task: TaskDir, code: int) -> bool:
    """Tell whether a signal ended the attempt that has just ended, by its own word or by its exit code."""
    return task.read_stopped().get("cause") == "preempted" or code in (-signal.SIGTERM, 128 + signal.SIGTERM)


def _environment(more: dict[str, str]) -> dict[str, str]:
    found = os.environ | more
    theirs = found.pop(TMPDIR_OF_TASKS, None)
    if theirs is not None:
        found.pop("TMPDIR", None)
        found |= {"TMPDIR": theirs} if theirs else {}
    return found


def _leave(task: TaskDir, attempt: int, code: int | None, ended: str, out_of_memory: bool) -> dict:
    marker = {"attempt": attempt, "exit_code": code, "ended": ended, "out_of_memory": out_of_memory}
    marker |= {"told": why_block_ends(), "job": os.environ.get(JOB), "ended_at": time.time()}
    write_json(task.exit, marker)
    return marker


def why_block_ends() -> str:
    """Return why the block that this process is in is ending, "" where it is not."""
    try:
        return Path(os.environ[BLOCK_ENDING]).read_text()
    except (KeyError, OSError):
        return ""


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the one that started it dies, however it dies.

    A task's process listens to its scheduler's warnings, although a worker (sites/pool.py) may not.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in WARNINGS:
        signal.signal(number, signal.SIG_DFL)


def keep_orphans() -> None:
    """Have processes below this one become its own children when their parents die, instead of being lost."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def is_alive(pid: int, born: float) -> bool:
    """Tell whether the process `pid` that was born at `born` (seconds since 1970) still runs on this host."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_session(leader: int, grace: float = GRACE_S) -> None:
    """End every process of the session that `leader` started: politely, then after `grace` seconds by force.

    Exit codes are left for the parent to collect.
    """
    end_processes(lambda: _members(leader), grace)


def end_processes(members: Callable[[], list[psutil.Process]], grace: float) -> None:
    """End all that `members` finds: SIGTERM at once, SIGKILL to those left after `grace` seconds."""
    for process in members():
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (left := members()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        send(process, signal.SIGKILL)


def _members(leader: int) -> list[psutil.Process]:
    """Return the processes of a session that have not ended."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue  # it ended meanwhile
    return members


def send(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
