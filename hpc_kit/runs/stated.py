"""What a checkpoint states of itself, read without torch and without running anything: for the login side.

Not for: its tensors (train/checkpoint.py).
"""

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

MOST_BYTES = 16 << 20  # of the archive's table of contents; tensors are files of their own
# What reading a pickle may raise that was damaged, or made to harm.
_OF_A_PICKLE = (
    pickle.UnpicklingError, EOFError, AttributeError, TypeError, KeyError, IndexError, MemoryError,
)  # fmt: skip


class _Nothing:
    """Stands for everything in a file that is no plain value."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass

    def __setitem__(self, *_):
        pass


class _PlainValues(pickle.Unpickler):
    """Reads plain values; whatever class or function a file names, none is looked up, let alone called."""

    def find_class(self, module: str, name: str) -> type:
        return _Nothing

    def persistent_load(self, pid: Any) -> None:
        return None


def looks_like_checkpoint(path: Path) -> bool:
    """Tell whether a file begins as torch writes one: a zip archive, or before torch 1.6 a pickle."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"


def is_whole(path: Path) -> bool:
    """Tell whether the bytes of a checkpoint are those that were written: torch writes a sum of each tensor into the
    archive and looks at none when it reads. A pickle, as torch wrote before 1.6, has no sums."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return True
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        except (ValueError, NotImplementedError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
            return False


def stated(path: Path) -> dict[str, Any]:
    """Return the plain values of a checkpoint by their names; {} where it holds none or is in another form."""
    try:
        with zipfile.ZipFile(path) as archive:
            (table,) = (member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
            if table.file_size > MOST_BYTES:
                return {}
            content = _PlainValues(io.BytesIO(archive.read(table))).load()
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, *_OF_A_PICKLE):
        return {}
    return content if isinstance(content, dict) else {}
