"""A shard set on a node's own disk, as plain arrays that all ranks of the node map: one copy in memory, not one each.

The first rank to come writes it, under a lock; the others wait and map it. Its folder is named by the data set and
the graph settings, so a later job on the same node finds it again.
"""

import hashlib
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np

from hpc_kit.data.batches import read_with_edges
from hpc_kit.data.manifest import Manifest
from hpc_kit.data.shards import Arrays
from hpc_kit.lock import Lock
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Graph


def open_staged(folder: Path, manifest: Manifest, graph: Graph, stage: Path) -> Arrays:
    """Return the arrays of a shard set, mapped from its staged copy in `stage`, which is made if it is not there.

    Raises InputError where `stage` cannot be written.
    """
    key = hashlib.sha256(json.dumps([manifest.sha256, graph.model_dump()], sort_keys=True).encode()).hexdigest()
    home = stage / f"hpc_kit-{os.getuid()}-{key[:16]}"
    lock = Lock(home.with_suffix(".lock"))
    try:
        stage.mkdir(parents=True, exist_ok=True)
        lock.acquire(wait=True)
        if not home.is_dir():
            _write(home, read_with_edges(folder, manifest, graph))
    except OSError as error:
        raise InputError(f"{stage}: the data cannot be staged there: {error}") from None
    finally:
        lock.release()
    arrays = {path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in home.glob("*.npy")}
    targets = {name: arrays.pop(f"target-{i}") for i, name in enumerate(manifest.targets)}
    return Arrays(targets=targets, **arrays)


def _write(home: Path, arrays: Arrays) -> None:
    """Write every array, then give the folder its name."""
    making = home.with_name(home.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    for f in fields(Arrays):
        value = getattr(arrays, f.name)
        if f.name != "targets" and value is not None:
            plain = np.asarray(value, dtype=np.dtype(value.dtype.str))  # without h5py's notes on text types
            np.save(making / f"{f.name}.npy", plain)
    for i, values in enumerate(arrays.targets.values()):
        np.save(making / f"target-{i}.npy", values)
    making.rename(home)
