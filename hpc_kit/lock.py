"""One process at a time: a lock on a file."""

import fcntl
import json
import os
import socket
from pathlib import Path

import psutil

from hpc_kit.spec.errors import InputError


class Lock:
    """An exclusive lock on a file that the kernel drops when its holder dies, however it dies.

    The file names its last holder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock; return False where another process has it, or wait until it has not."""
        handle = self._take(wait)
        if handle is None:
            return False
        me = {"pid": os.getpid(), "host": socket.gethostname(), "born": psutil.Process().create_time()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me).encode(), 0)
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_held(self) -> bool:
        """Tell whether a process holds the lock now."""
        if self._handle is not None:
            return True
        if not self.path.exists():
            return False
        handle = self._take()
        if handle is None:
            return True
        os.close(handle)
        return False

    def holder(self) -> dict:
        """Return pid, host and time of birth of the last holder; {} where nobody ever had it."""
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}

    def _take(self, wait: bool = False) -> int | None:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened for writing: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        return handle
