"""Reading the members of a folder, a tar or a zip one after the other, without unpacking anything.

An archive may not become many times its size, and nothing outside of the folder or archive is read.
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hpc_kit.data.sources import options as opt
from hpc_kit.spec.errors import InputError

GB = 10**9
# An archive may become so many times its size, and 1 GB in any case. Text of crystals and molecules in the archives
# we read becomes 5 to 30 times larger; what is made to fill a disk becomes 1,000 times larger and more.
MOST_TIMES = 100
OPTIONS = {
    "max_unpacked_gb": f"GB that an archive may hold unpacked; default: {MOST_TIMES} times its size, at least 1",
    "follow_links": "true: files that links within a folder lead to are read wherever they are",
}
_ERRORS = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, RuntimeError, OSError)
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"\x5d\x00\x00\x80": lzma.open}


@dataclass(frozen=True)
class Bounds:
    """How far a reader goes: `most` bytes of an archive (None: MOST_TIMES its size), and whether along links."""

    most: int | None = None
    follow: bool = False

    def of(self, path: Path) -> int:
        """Return how many bytes the archive `path` may hold unpacked."""
        return max(GB, MOST_TIMES * path.stat().st_size) if self.most is None else self.most

    def refuse(self, path: Path, size: int) -> None:
        """Raise InputError where `size` bytes are more than the archive `path` may hold."""
        if size > (most := self.of(path)):
            raise InputError(
                f"{path}: {path.stat().st_size / GB:.3g} GB that unpack to {size / GB:.3g} GB or more, and"
                f" {most / GB:.3g} GB are allowed; if that is right, say --option max_unpacked_gb=N"
            )


def bounds(options: dict[str, str]) -> Bounds:
    """Return what a source's options say of them."""
    most = opt.positive(options, "max_unpacked_gb")
    return Bounds(None if most is None else int(most * GB), opt.yes(options, "follow_links"))


def members(path: Path, suffix: str, limits: Bounds = Bounds()) -> Iterator[tuple[str, bytes | str]]:
    """Yield (file name without folders, content) of the files of `path` that end in `suffix`.

    A folder is read in the order of its sorted names, an archive in its own order, in one pass and one member
    in memory at a time. Hidden files are left out, as are the `._x` files that macOS adds. The content of a link that
    is not followed is text: why. Raises InputError where `path` is no archive, is damaged, holds more than `limits`
    allow, or has a member whose name leads out of it.
    """
    try:
        yield from _folder(path, suffix, limits) if path.is_dir() else _archive(path, suffix, limits)
    except _ERRORS as error:
        raise InputError(f"{path}: cannot be read to its end as a folder, tar or zip: {error}") from None


def link_fault(path: Path, folder: Path) -> str:
    """Return why `path`, found below `folder`, is not read: it is a link that leads out, or to a folder; else ""."""
    if not path.is_symlink():
        return ""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link that leads nowhere"
    if target.is_dir():
        return "a link to a folder, which is not followed: name that folder, or copy it"
    if target.is_relative_to(folder.resolve()):
        return ""
    return "a link that leads out of the folder: copy the file, or say --option follow_links=true"


def is_archive(path: Path) -> bool:
    """Tell whether `path` is a zip, or a tar of any compression."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def open_member(archive: zipfile.ZipFile, name: str, path: Path, limits: Bounds = Bounds()) -> IO[bytes]:
    """Open a member of the zip `path`; it yields no more bytes than it declares, which `limits` must allow."""
    limits.refuse(path, archive.getinfo(name).file_size)
    return archive.open(name)


def _folder(path: Path, suffix: str, limits: Bounds) -> Iterator[tuple[str, bytes | str]]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        fault = "" if limits.follow and file.is_file() else link_fault(file, path)
        if fault and _visible(name) and (name.endswith(suffix) or not file.is_file()):
            yield file.name, fault
        elif not fault and _wanted(name, suffix) and file.is_file():
            yield file.name, file.read_bytes()


def _archive(path: Path, suffix: str, limits: Bounds) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            wanted = [info for info in archive.infolist() if _wanted(info.filename, suffix)]
            limits.refuse(path, sum(info.file_size for info in wanted))
            for info in wanted:
                _refuse_outside(path, info.filename)
                yield info.filename.rpartition("/")[2], archive.read(info)
        return
    with path.open("rb") as raw, _unpacked(raw) as file:
        with tarfile.open(fileobj=_Counted(file, path, limits), mode="r|") as archive:
            for member in archive:
                if _wanted(member.name, suffix) and not member.isdir():
                    _refuse_outside(path, member.name)
                    if not member.isfile():
                        raise InputError(f"{path}: {member.name} is a link or a device: pack the files themselves")
                    limits.refuse(path, member.size)  # a sparse one is larger than what is read of it
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name.rpartition("/")[2], content.read()
                archive.members = []  # tarfile keeps a list of all it has seen; 134,000 entries are 200 MB


def _unpacked(raw: IO[bytes]) -> IO[bytes]:
    start = raw.read(6)
    raw.seek(0)
    return next((opener(raw) for magic, opener in _OPENERS.items() if start.startswith(magic)), raw)


class _Counted:
    """A stream that ends in an InputError where it becomes longer than it may."""

    def __init__(self, file: IO[bytes], path: Path, limits: Bounds):
        self._file, self._path, self._limits, self._most, self._read = file, path, limits, limits.of(path), 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._read += len(content)
        if self._read > self._most:
            self._limits.refuse(self._path, self._read)
        return content


def _refuse_outside(path: Path, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"{path}: holds {name!r}, a name that leads out of it: pack it anew")


def _wanted(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and _visible(name)


def _visible(name: str) -> bool:
    """Tell whether no part of a name is hidden; `..` is none that hides."""
    return not any(part.startswith(".") and part != ".." for part in name.removeprefix("./").split("/"))
