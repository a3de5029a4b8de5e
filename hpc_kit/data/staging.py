"""A shard set on a node's own disk, as plain arrays that all ranks of the node map: one copy in memory, not one each.

The first rank to come writes it, under a lock; the others wait and map it. Its folder is named by the data set and
the graph settings, so a later job on the same node finds it again. The place is shared with other users: the folder
is ours alone (files.private_folder), everything is opened relative to it, and nothing in it is used before its sha256
is what the writer noted.
"""

import fcntl
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.batches import read_with_edges
from hpc_kit.data.manifest import Manifest
from hpc_kit.data.shards import Arrays, array_sha256
from hpc_kit.files import is_of_disk, private_folder
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, WorkError

LISTING = "listing.json"  # what the copy is of, and the sha256 of each array; written last
LOCK = "lock"


def open_staged(folder: Path, manifest: Manifest, graph: Graph, stage: Path) -> Arrays:
    """Return the arrays of a shard set, mapped from its staged copy in `stage`.

    The copy is made if it is not there, and made anew if it is not whole. Raises InputError where `stage` cannot be
    used or the copy's folder is not this user's alone, WorkError where the disk is full or broken.
    """
    content = {"dataset_sha256": manifest.sha256, "graph": graph.model_dump()}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    home = stage / f"hpc_kit-{os.geteuid()}-{key[:16]}"
    try:
        stage.mkdir(parents=True, exist_ok=True)
        handle = private_folder(home)
        try:
            return _staged(home, handle, content, lambda: read_with_edges(folder, manifest, graph))
        finally:
            os.close(handle)
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{home}: the data cannot be staged there: {error.strerror or error}") from None


def _staged(home: Path, handle: int, content: dict[str, Any], read) -> Arrays:
    """Map the copy in the folder `handle`; write what `read` returns where it is not whole."""
    for _ in range(3):
        listing = _listing(handle)
        arrays = _map_all(handle, listing, content)  # outside the lock: the ranks of a node do it side by side
        if arrays is not None:
            return arrays
        with _locked(handle):
            if _listing(handle) == listing:  # otherwise another rank has written it meanwhile
                if listing is not None:
                    print(f"{home}: the staged copy is damaged and is made anew", file=sys.stderr, flush=True)
                _write(handle, content, read())
    raise WorkError(f"{home}: the staged copy does not read back as it was written: look after the node's disk")


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=handle)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _listing(handle: int) -> bytes | None:
    try:
        with _open(handle, LISTING) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _open(handle: int, name: str, flags: int = os.O_RDONLY):
    number = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=handle)
    return os.fdopen(number, "rb" if flags == os.O_RDONLY else "wb")


def _map_all(handle: int, listing: bytes | None, content: dict[str, Any]) -> Arrays | None:
    """Return the arrays that `listing` names; None where one is missing or is not what was written."""
    if listing is None:
        return None
    try:
        noted = json.loads(listing)
        if noted["content"] != content:
            return None
        arrays = {name: _map(handle, f"{name}.npy") for name in noted["sha256"]}
        if any(array_sha256(array) != noted["sha256"][name] for name, array in arrays.items()):
            return None
        targets = {name: arrays.pop(f"target-{i}") for i, name in enumerate(noted["targets"])}
        return Arrays(targets=targets, **arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and is_of_disk(error):
            raise
        return None


def _map(handle: int, name: str) -> np.ndarray:
    with _open(handle, name) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name}: not an array of this package")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
        if columns_first or dtype.hasobject:
            raise ValueError(f"{name}: not an array of this package")
        return np.memmap(file, dtype, mode="c", offset=file.tell(), shape=shape)


def _write(handle: int, content: dict[str, Any], arrays: Arrays) -> None:
    """Write every array, then the listing; on a full disk, nothing. Whoever still maps an older copy keeps it."""
    named = {f.name: getattr(arrays, f.name) for f in fields(Arrays) if f.name != "targets"}
    named |= {f"target-{i}": values for i, values in enumerate(arrays.targets.values())}
    # Without h5py's notes on text types.
    plain = {k: np.ascontiguousarray(v, np.dtype(v.dtype.str)) for k, v in named.items() if v is not None}
    noted = {
        "content": content,
        "targets": list(arrays.targets),
        "sha256": {name: array_sha256(array) for name, array in plain.items()},
        "written": uuid.uuid4().hex,
    }
    _empty(handle)
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        for name, array in plain.items():
            with _open(handle, f"{name}.npy", new) as file:
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
        with _open(handle, f"{LISTING}.tmp", new) as file:
            file.write(json.dumps(noted).encode())
        os.rename(f"{LISTING}.tmp", LISTING, src_dir_fd=handle, dst_dir_fd=handle)
    except OSError:
        _empty(handle)
        raise


def _empty(handle: int) -> None:
    for name in os.listdir(handle):
        if name != LOCK:
            os.unlink(name, dir_fd=handle)
