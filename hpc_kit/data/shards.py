"""Shards: HDF5 files of flat arrays and offsets, and the folder of them that makes a data set.

Layout of a shard (no variable-length types, no pickles; N atoms, G graphs, E edges):
  atoms/z uint8[N]   atoms/pos float32[N,3]                     Angstrom
  graphs/atom_ptr int64[G+1]   graphs/cell float32[G,3,3]   graphs/pbc bool[G,3]
  edges/src|dst int32[E] (within the shard, sorted by dst)   edges/shift int8[E,3]   graphs/edge_ptr int64[G+1]
  targets/<name> float64[G]   ids bytes[G]
`edges/` and `graphs/edge_ptr` are absent where the set stores atoms only.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_kit.data.manifest import FILE_NAME, SCHEMA, Manifest, Shard, Target, content_sha256, read_manifest
from hpc_kit.data.structures import Structure
from hpc_kit.files import atomic_path, write_atomically
from hpc_kit.spec.errors import InputError

_FILTERS = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


@dataclass
class Arrays:
    """The content of one or more shards as flat arrays; shapes and types as in the module's header."""

    z: np.ndarray
    pos: np.ndarray
    atom_ptr: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    targets: dict[str, np.ndarray]
    ids: np.ndarray


def write_shard_set(
    folder: Path,
    structures: Iterable[Structure],
    name: str,
    source: dict[str, Any],
    targets: dict[str, Target],
) -> Manifest:
    """Write `structures` as a shard set of one shard that stores atoms and no edges.

    The bytes depend on the arguments alone, so the same input gives the same sha256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = pack(list(structures), list(targets))
    path = folder / "shard-00000.h5"
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs["schema_version"] = SCHEMA
        file.attrs["units"] = json.dumps({"pos": "Angstrom", **{k: t.unit for k, t in targets.items()}})
        file.attrs["source"] = json.dumps(source)
        for key, array in _datasets(arrays).items():
            file.create_dataset(key, data=array, track_times=False, **_FILTERS)
    sizes = np.diff(arrays.atom_ptr)
    shard = Shard(
        file=path.name,
        graphs=len(sizes),
        atoms=len(arrays.z),
        edges=0,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )
    fields = Manifest(
        schema_version=SCHEMA,
        name=name,
        source=source,
        targets=targets,
        graph=None,
        elements=np.unique(arrays.z).tolist(),
        shards=[shard],
        atoms_per_graph=sizes.tolist(),
        edges_per_graph=[],
        sha256="",
    ).model_dump()
    fields["sha256"] = content_sha256(fields)
    write_atomically(folder / FILE_NAME, json.dumps(fields).encode())
    return read_manifest(folder)


def pack(structures: Sequence[Structure], targets: Sequence[str]) -> Arrays:
    """Lay structures out as flat arrays; a target a structure lacks becomes NaN."""
    sizes = [len(s.z) for s in structures]
    return Arrays(
        z=np.concatenate([s.z for s in structures]).astype(np.uint8),
        pos=np.concatenate([s.pos for s in structures]).astype(np.float32),
        atom_ptr=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        cell=np.stack([s.cell for s in structures]).astype(np.float32),
        pbc=np.stack([s.pbc for s in structures]).astype(bool),
        targets={t: np.array([s.targets.get(t, np.nan) for s in structures]) for t in targets},
        ids=np.array([s.id.encode() for s in structures]),
    )


def read_shard_set(folder: Path, manifest: Manifest) -> Arrays:
    """Read all shards of a set into memory.

    Raises InputError where a shard is missing, truncated, not HDF5, or not what the manifest says.
    """
    parts = [_read_shard(folder / shard.file, shard, manifest) for shard in manifest.shards]
    starts = np.cumsum([0] + [len(part.z) for part in parts])
    pointers = [p.atom_ptr[1:] + start for p, start in zip(parts, starts, strict=False)]
    return Arrays(
        z=np.concatenate([p.z for p in parts]),
        pos=np.concatenate([p.pos for p in parts]),
        atom_ptr=np.concatenate([[0], *pointers]),
        cell=np.concatenate([p.cell for p in parts]),
        pbc=np.concatenate([p.pbc for p in parts]),
        targets={t: np.concatenate([p.targets[t] for p in parts]) for t in manifest.targets},
        ids=np.concatenate([p.ids for p in parts]),
    )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _datasets(arrays: Arrays) -> dict[str, np.ndarray]:
    return {
        "atoms/z": arrays.z,
        "atoms/pos": arrays.pos,
        "graphs/atom_ptr": arrays.atom_ptr,
        "graphs/cell": arrays.cell,
        "graphs/pbc": arrays.pbc,
        **{f"targets/{name}": values for name, values in arrays.targets.items()},
        "ids": arrays.ids,
    }


def _read_shard(path: Path, shard: Shard, manifest: Manifest) -> Arrays:
    if not path.is_file():
        raise InputError(f"{path}: missing, though {FILE_NAME} lists it")
    size = path.stat().st_size
    if size != shard.bytes:
        raise InputError(f"{path}: {size} bytes where {FILE_NAME} says {shard.bytes}: truncated or altered")
    try:
        with h5py.File(path, "r", locking=False) as file:
            version = int(file.attrs.get("schema_version", -1))
            if version != SCHEMA:
                raise InputError(f"{path}: schema version {version}; this hpc_kit reads version {SCHEMA}")
            arrays = Arrays(
                z=file["atoms/z"][:],
                pos=file["atoms/pos"][:],
                atom_ptr=file["graphs/atom_ptr"][:],
                cell=file["graphs/cell"][:],
                pbc=file["graphs/pbc"][:],
                targets={name: file[f"targets/{name}"][:] for name in manifest.targets},
                ids=file["ids"][:],
            )
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable shard: {error}") from None
    if len(arrays.ids) != shard.graphs or len(arrays.z) != shard.atoms:
        raise InputError(
            f"{path}: {len(arrays.ids)} graphs and {len(arrays.z)} atoms where {FILE_NAME} says"
            f" {shard.graphs} and {shard.atoms}"
        )
    return arrays
