"""One process at a time: a lock on a file, also across the hosts of a shared file system."""

import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from pathlib import Path

import psutil

from hpc_kit.spec.errors import InputError

STALE_S = 60.0  # a holder on another host that has not touched its file for so long is gone


class Lock:
    """An exclusive lock on a file that the kernel drops when its holder dies, however it dies.

    The file names its last holder. Some shared file systems keep locks on one host: there a holder that calls `beat`
    now and then is seen by the age of its file, measured on the file server's own clock.
    """

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock; return False where another process has it, or wait until it has not."""
        if self._beats_elsewhere():
            return False
        handle = self._take(wait)
        if handle is None:
            return False
        self._handle = handle
        self._write({"pid": os.getpid(), "host": socket.gethostname(), "born": psutil.Process().create_time()})
        return True

    def beat(self) -> None:
        """Show other hosts that the holder is alive."""
        me = self.holder()
        if me.get("pid") != os.getpid() or me.get("host") != socket.gethostname():
            raise InputError(f"{self.path}: process {me.get('pid')} on {me.get('host')} has taken this over")
        self._write(me | {"beats": True})

    def release(self) -> None:
        if self._handle is not None:
            self._write(self.holder() | {"beats": False})
            os.close(self._handle)
            self._handle = None

    def is_held(self) -> bool:
        """Tell whether a process holds the lock now."""
        if self._handle is not None:
            return True
        if not self.path.exists():
            return False
        if self._beats_elsewhere():
            return True
        handle = self._take(look=True)
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

    def _write(self, holder: dict) -> None:
        text = json.dumps(holder).encode()
        os.pwrite(self._handle, text, 0)
        os.ftruncate(self._handle, len(text))
        os.utime(self.path)

    def _beats_elsewhere(self) -> bool:
        holder = self.holder()
        if not holder.get("beats") or holder.get("host") == socket.gethostname():
            return False
        return _server_time(self.path.parent) - self.path.stat().st_mtime < STALE_S

    def _take(self, wait: bool = False, look: bool = False) -> int | None:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if not look or error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise InputError(f"{self.path}: cannot be opened for writing: {error.strerror}") from None
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)  # somebody else's: it may be looked at
        kind = fcntl.LOCK_SH if look else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        return handle


def _server_time(folder: Path) -> float:
    """Return the time of the file system that holds `folder`, which may differ from this host's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # somebody else's folder
        return time.time()
