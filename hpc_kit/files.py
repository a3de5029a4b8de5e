"""Writing and reading files so that a reader never sees half of one.

Not for: what is in them (runs/, data/, train/).
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hpc_kit.spec.errors import InputError, WorkError

# What a disk or a machine does, as against what a user names wrongly: full, over quota, broken, gone, out of handles.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EFBIG, errno.ENFILE, errno.EMFILE, errno.ENOMEM}


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    On any error, a full disk included, the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(*paths: Path) -> None:
    """Remove the temporary files that killed writers have left of `paths`, or of whatever is in those that are
    folders, where nobody writes these any more."""
    for path in paths:
        folder, name = (path, "*") if path.is_dir() else (path.parent, glob.escape(path.name))
        for leftover in folder.glob(f".{name}.{'[0-9a-f]' * 8}.tmp"):
            leftover.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was and raise OSError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def make_folder(folder: Path, files: Iterable[Path], force: bool) -> None:
    """Make the folder that `files` are to be written into.

    Raises InputError where that cannot be done, or where one of them is there already and `force` is not given;
    WorkError where the disk fails.
    """
    if not force and (there := next((file for file in files if file.exists()), None)):
        raise InputError(f"{there}: exists; --force writes it anew")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{folder}: cannot be made: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append `value` as one line of JSON, in one write, and have it on disk before returning."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Append a line of JSON for each value, and have them on disk before returning; on a full disk, none of them."""
    lines = "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    before = os.fstat(handle).st_size
    try:
        while lines:
            lines = lines[os.write(handle, lines) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise
    finally:
        os.close(handle)


def drop_torn_line(path: Path) -> None:
    """Cut a last line without its end off `path`, so that the next append starts a line of its own."""
    if path.exists():
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):
            os.truncate(path, text.rfind(b"\n") + 1)


def expect_ordinary(path: Path) -> None:
    """Raise OSError where `path` is a folder, or a pipe or device, which reading may never come to the end of."""
    if not stat.S_ISREG(mode := path.stat().st_mode):
        raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(mode) else "is no ordinary file", str(path))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    expect_ordinary(path)
    with path.open("rb") as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """Return the sha256 of what is left to read of an open file, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def content_sha256(fields: dict[str, Any]) -> str:
    """Return the identity of `fields`, plain values, without their own `sha256`; their order does not matter."""
    content = {key: value for key, value in fields.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_of_disk(error: OSError) -> bool:
    """Tell whether the disk or the machine failed, rather than that something wrong was named."""
    return error.errno in _DISK


def private_folder(path: Path) -> int:
    """Make the folder `path` for this user alone, or see that it is; return an open descriptor of it.

    For places that users share, such as /tmp, where somebody else may have come first. What is opened relative to the
    descriptor (`dir_fd`) is in this very folder, whatever happens to its name. Raises OSError where `path` cannot be
    made, PermissionError where it is a link, a file, somebody else's, or open to others.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise PermissionError(
            errno.EPERM, "is a link or a file where a folder of yours was to be: remove it"
        ) from None
    found = os.fstat(handle)
    if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return handle
    os.close(handle)
    mode = f"{stat.S_IMODE(found.st_mode):o}"
    owner = "somebody else" if found.st_uid != os.geteuid() else f"you and is open to others (mode {mode})"
    raise PermissionError(errno.EPERM, f"belongs to {owner}, so its content is not to be trusted: remove it")
