"""One process at a time: a lock on a file, also across the hosts of a shared file system."""

import errno
import fcntl
import json
import os
import socket
import struct
import tempfile
import time
from pathlib import Path

import psutil

from hpc_kit.spec.errors import InputError

STALE_S = 60.0  # a holder on another host that has not touched its file for so long is gone
# fcntl(2), "Open file description locks": they can be asked about without being taken. A Python that was built for an
# old C library has no names for them.
_GETLK, _SETLK, _SETLKW = 36, 37, 38
_WHOLE_FILE = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process


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
        if not self.path.exists():
            raise InputError(f"{self.path.parent}: was deleted while its tasks were run")
        if me.get("pid") != os.getpid() or me.get("host") != socket.gethostname():
            raise InputError(f"{self.path}: process {me.get('pid')} on {me.get('host')} has taken this over")
        self._write(me | {"beats": True})

    def release(self) -> None:
        if self._handle is not None:
            self._write(self.holder() | {"beats": False})
            os.close(self._handle)
            self._handle = None

    def is_held(self) -> bool:
        """Tell whether a process holds the lock now. Looking takes nothing, so that a starting process gets it."""
        if self._handle is not None:
            return True
        if not self.path.exists():
            return False
        if self._beats_elsewhere():
            return True
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from None
        try:
            found = fcntl.fcntl(handle, _GETLK, struct.pack(_WHOLE_FILE, fcntl.F_WRLCK, 0, 0, 0, 0))
        finally:
            os.close(handle)
        return struct.unpack(_WHOLE_FILE, found)[0] != fcntl.F_UNLCK

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
        os.utime(self._handle)

    def _beats_elsewhere(self) -> bool:
        holder = self.holder()
        if not holder.get("beats") or holder.get("host") == socket.gethostname():
            return False
        return server_time(self.path.parent) - self.path.stat().st_mtime < STALE_S

    def _take(self, wait: bool) -> int | None:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened for writing: {error.strerror}") from None
        try:
            fcntl.fcntl(handle, _SETLKW if wait else _SETLK, struct.pack(_WHOLE_FILE, fcntl.F_WRLCK, 0, 0, 0, 0))
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return None
        return handle


def server_time(folder: Path) -> float:
    """Return the time of the file system that holds `folder`, which may differ from this host's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # somebody else's folder
        return time.time()
