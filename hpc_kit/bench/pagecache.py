"""The page cache of a data set's files: dropped, filled and looked at, without root's rights."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from hpc_kit.spec.errors import InputError

PAGE = mmap.PAGESIZE
LARGE = 1 << 24


def drop(files: Sequence[Path]) -> None:
    """Ask the kernel to forget the pages of `files` (posix_fadvise, DONTNEED). Those that others have mapped stay,
    and on a file system in memory all do: `resident` tells. Raises InputError where a file cannot be opened."""
    for path in files:
        with _opened(path) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill(files: Sequence[Path]) -> None:
    """Read `files` to their ends. Raises InputError where one cannot be."""
    for path in files:
        with _opened(path) as file:
            while file.read(LARGE):
                pass


def resident(files: Sequence[Path]) -> float | None:
    """Return the share of the bytes of `files` that lie in memory, by mincore. None where the kernel does not tell:
    it does of files that one owns or may write."""
    pages = there = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for path in files:
        if not (os.access(path, os.W_OK) or path.stat().st_uid == os.geteuid()):
            return None
        with _opened(path) as file:
            if not (size := os.fstat(file.fileno()).st_size):
                continue
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:  # ctypes wants it writable
                found = (ctypes.c_ubyte * -(-size // PAGE))()
                start = ctypes.c_char.from_buffer(mapped)
                failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), found)
                del start
            if failed:
                return None
            pages += len(found)
            there += sum(page & 1 for page in found)
    return there / pages if pages else None


def _opened(path: Path):
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
