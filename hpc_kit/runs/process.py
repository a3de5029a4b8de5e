"""Runs one task's process from start to end and watches it: what a worker does for the driver.

It ends the process and all its children when the run is cancelled or the driver dies, so nothing is orphaned.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

from hpc_kit.files import write_json
from hpc_kit.runs.layout import TaskDir

POLL_S = 0.25
GRACE_S = 30.0  # from SIGTERM to SIGKILL: for the step under way and a checkpoint
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def supervise(
    argv: list[str], environment: dict[str, str], folder: str, attempt: int, driver: tuple[int, float] | None
) -> dict:
    """Run `argv` with its output appended to the task's log and return {"exit_code", "ended"}.

    driver is (pid, time of birth) of the process to live and die with, where it is on this host. `ended` is
    "by itself", "cancelled" or "driver gone"; exit_code is None where the process never started.
    """
    task = TaskDir(Path(folder))
    if task.run.cancel_request.exists():
        return {"exit_code": None, "ended": "cancelled"}
    with task.log.open("ab") as log:
        process = subprocess.Popen(
            argv,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    write_json(
        task.process,
        {"attempt": attempt, "pid": process.pid, "host": socket.gethostname(), "started_at": time.time()},
    )
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
    end_session(process.pid)
    return {"exit_code": process.wait(), "ended": ended}


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the one that started it dies, however it dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
    for process in _members(leader):
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (members := _members(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in members:
        _signal(process, signal.SIGKILL)


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


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
