"""Reading the members of a folder, a tar or a zip one after the other, without unpacking anything."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hpc_kit.spec.errors import InputError


def members(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield (file name without folders, content) of the files of `path` that end in `suffix`.

    A folder is read in the order of its sorted names, an archive in its own order, in one pass and one member
    in memory at a time. Hidden files are left out, as are the `._x` files that macOS adds. Raises InputError
    where `path` is no archive or is damaged.
    """
    try:
        yield from _folder(path, suffix) if path.is_dir() else _archive(path, suffix)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        RuntimeError,
        OSError,
    ) as error:
        raise InputError(f"{path}: cannot be read to its end as a folder, tar or zip: {error}") from None


def _folder(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    for file in sorted(path.rglob(f"*{suffix}")):
        if _wanted(file.relative_to(path).as_posix(), suffix) and file.is_file():
            yield file.name, file.read_bytes()


def _archive(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _wanted(name, suffix):
                    yield name.rpartition("/")[2], archive.read(name)
        return
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and _wanted(member.name, suffix):
                content = archive.extractfile(member)
                assert content is not None
                yield member.name.rpartition("/")[2], content.read()
            archive.members = []  # tarfile keeps a list of all it has seen; 134,000 entries are 200 MB


def _wanted(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and not any(part.startswith(".") for part in name.removeprefix("./").split("/"))
