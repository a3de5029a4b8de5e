"""Shards: HDF5 files of flat arrays and offsets.

Layout of a shard (no variable-length types, no pickles; N atoms, G graphs, E edges):

    atoms/z uint8[N]         atoms/pos float32[N,3] Angstrom    atoms/forces float32[N,3] eV/Angstrom (optional)
    graphs/atom_ptr int64[G+1]   graphs/cell float32[G,3,3]     graphs/pbc bool[G,3]   graphs/smiles bytes[G] (opt.)
    edges/src|dst int32[E], counted from the graph's first atom, sorted by dst     edges/shift int8[E,3]
    graphs/edge_ptr int64[G+1]   targets/<name> float64[G], missing = NaN          ids bytes[G]

`edges/` and `graphs/edge_ptr` are absent where a set stores atoms only. Arrays are chunked and compressed: see
docs/data.md for the measurement behind the choice.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from hpc_kit.data.graphs import build_graph, closest
from hpc_kit.data.manifest import FILE_NAME, SCHEMA, Manifest, Shard, Target
from hpc_kit.data.structures import RejectedError, Structure, completed, near_origin
from hpc_kit.files import file_sha256, write_atomically
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError

# Atoms closer than this (Angstrom) lie on top of each other: no energy or gradient of such a pair means anything.
OVERLAP = 0.2
_CHUNK = 65536  # elements along the first axis
_FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_PLACES = {
    "z": "atoms/z",
    "pos": "atoms/pos",
    "forces": "atoms/forces",
    "atom_ptr": "graphs/atom_ptr",
    "cell": "graphs/cell",
    "pbc": "graphs/pbc",
    "smiles": "graphs/smiles",
    "edge_ptr": "graphs/edge_ptr",
    "src": "edges/src",
    "dst": "edges/dst",
    "shift": "edges/shift",
    "ids": "ids",
}
_REQUIRED = ("z", "pos", "atom_ptr", "cell", "pbc", "ids")


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
    edge_ptr: np.ndarray | None = None
    src: np.ndarray | None = None
    dst: np.ndarray | None = None
    shift: np.ndarray | None = None
    forces: np.ndarray | None = None
    smiles: np.ndarray | None = None


def pack(structures: Sequence[Structure], targets: Sequence[str], graph: Graph | None = None) -> Arrays:
    """Lay structures out as flat arrays, with edges where `graph` says how; a target a structure lacks is NaN.

    Structures far from the origin are moved (near_origin). Edges are built from positions and cells that are not yet
    rounded for storage. Raises RejectedError where a graph cannot be built.
    """
    structures = [near_origin(s) for s in structures]
    arrays = Arrays(
        z=np.concatenate([s.z for s in structures]).astype(np.uint8),
        pos=np.concatenate([s.pos for s in structures]).astype(np.float32),
        atom_ptr=_offsets([len(s.z) for s in structures]),
        cell=np.stack([np.where(s.pbc[:, None], s.cell, 0.0) for s in structures]).astype(np.float32),
        pbc=np.stack([s.pbc for s in structures]).astype(bool),
        targets={t: np.array([s.targets.get(t, np.nan) for s in structures], dtype=float) for t in targets},
        ids=np.array([s.id.encode() for s in structures]),
    )
    if any(s.forces is not None for s in structures):
        known = [np.full((len(s.z), 3), np.nan) if s.forces is None else s.forces for s in structures]
        arrays.forces = np.concatenate(known).astype(np.float32)
    if any(s.smiles for s in structures):
        arrays.smiles = np.array([s.smiles.encode() for s in structures])
    if graph is not None:
        _put_edges(arrays, [build_graph(s.pos, s.cell, s.pbc, graph) for s in structures])
    return arrays


def add_edges(arrays: Arrays, graph: Graph) -> None:
    """Build the edges of every graph as `graph` says from the stored positions and put them into `arrays`."""
    bounds = zip(arrays.atom_ptr[:-1], arrays.atom_ptr[1:], strict=True)
    places = [arrays.pos[start:end] for start, end in bounds]
    shapes = zip(places, arrays.cell, arrays.pbc, strict=True)
    _put_edges(arrays, [build_graph(pos, cell, pbc, graph) for pos, cell, pbc in shapes])


def _put_edges(arrays: Arrays, parts: list) -> None:
    src, dst, shift = (np.concatenate(column) for column in zip(*parts, strict=True))
    arrays.edge_ptr = _offsets([len(part[0]) for part in parts])
    arrays.src, arrays.dst, arrays.shift = src.astype(np.int32), dst.astype(np.int32), shift.astype(np.int8)


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """Return several shards' arrays as one. Where some have shifts, forces or SMILES, the others get 0, NaN or ""."""
    if len(parts) == 1:
        return parts[0]

    def join(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            return None
        if name in ("shift", "forces", "smiles"):
            values = [_nothing(name, part) if v is None else v for v, part in zip(values, parts, strict=True)]
        if name.endswith("_ptr"):
            return _offsets(np.concatenate([np.diff(value) for value in values]))
        return np.concatenate(values)

    names = [f.name for f in fields(Arrays) if f.name != "targets"]
    targets = {t: np.concatenate([part.targets[t] for part in parts]) for t in parts[0].targets}
    return Arrays(targets=targets, **{name: join(name) for name in names})


def write_shard(path: Path, arrays: Arrays, targets: dict[str, Target], source: dict, graph: Graph | None) -> Shard:
    """Write one shard, whole or not at all. The bytes depend on the arguments alone.

    They are made in memory and written at once: HDF5 itself, on a disk that is full, cannot be made to let go of the
    file. Raises OSError.
    """
    # The name of a file in memory is not in its bytes.
    with h5py.File("shard", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs["schema_version"] = SCHEMA
        file.attrs["units"] = json.dumps({"pos": "Angstrom", **{k: t.unit for k, t in targets.items()}})
        file.attrs["source"] = json.dumps(source, sort_keys=True)
        file.attrs["graph"] = json.dumps(graph.model_dump() if graph else None, sort_keys=True)
        datasets = {place: getattr(arrays, name) for name, place in _PLACES.items()}
        datasets |= {f"targets/{name}": values for name, values in arrays.targets.items()}
        for place, array in datasets.items():
            if array is not None:
                chunks = (max(1, min(_CHUNK, len(array))), *array.shape[1:])
                file.create_dataset(place, data=array, chunks=chunks, track_times=False, **_FILTERS)
        file.flush()
        content = file.id.get_file_image()
    write_atomically(path, content)
    return Shard(
        file=path.name,
        graphs=len(arrays.ids),
        atoms=len(arrays.z),
        edges=0 if arrays.src is None else len(arrays.src),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        arrays={"ids": array_sha256(arrays.ids)}
        | {f"targets/{name}": array_sha256(values) for name, values in arrays.targets.items()},
    )


def array_sha256(array: np.ndarray) -> str:
    """Return the sha256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def read_shard_set(
    folder: Path,
    manifest: Manifest,
    only: Sequence[int] | None = None,
    targets: Sequence[str] | None = None,
    names: bool = True,
) -> Arrays:
    """Read the shards `only` (all of them if None) of a set into memory, with the `targets` named (all if None) and,
    if `names`, with ids and SMILES. `shift` is None where nothing is periodic.

    Raises InputError where a shard is missing, truncated, not HDF5, or not what the manifest says.
    """
    shards = manifest.shards if only is None else [manifest.shards[i] for i in only]
    places = _PLACES if names else {k: v for k, v in _PLACES.items() if k not in ("ids", "smiles")}
    wanted = manifest.targets if targets is None else targets
    return concatenate([_read_shard(folder / shard.file, shard, wanted, places) for shard in shards])


def read_targets(folder: Path, manifest: Manifest, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read nothing but targets (all if None) of a whole set: name -> [G] float64."""
    names = list(manifest.targets) if names is None else names
    parts = [_read_shard(folder / s.file, s, names, {}) for s in manifest.shards]
    return {name: np.concatenate([part.targets[name] for part in parts]) for name in names}


def read_composition(folder: Path, manifest: Manifest) -> Arrays:
    """Read of a whole set what it is made of: z, atom_ptr, pbc, ids and smiles. The other arrays are None."""
    places = {name: _PLACES[name] for name in ("z", "atom_ptr", "pbc", "ids", "smiles")}
    return concatenate([_read_shard(folder / s.file, s, [], places) for s in manifest.shards])


def read_ids(folder: Path, shards: Iterable[Shard]) -> np.ndarray:
    """Read nothing but the identifiers of some shards: [G] bytes."""
    return np.concatenate([_read_shard(folder / s.file, s, [], {"ids": "ids"}).ids for s in shards])


def stores_forces(folder: Path, manifest: Manifest) -> bool:
    """Tell whether the first shard of a set has forces on its atoms."""
    first = manifest.shards[0]
    check_bytes(folder / first.file, first)
    with h5py.File(folder / first.file, "r", locking=False) as file:
        return _PLACES["forces"] in file


def check_structure(structure: Structure) -> None:
    """Raise RejectedError with the reason why no graph can be made of `structure`."""
    z, pos = np.asarray(structure.z), np.asarray(structure.pos)
    if len(z) == 0:
        raise RejectedError("no atoms")
    if pos.shape != (len(z), 3):
        raise RejectedError(f"{len(z)} atomic numbers and positions of shape {pos.shape}")
    if not np.isfinite(pos).all() or not np.isfinite(structure.cell[structure.pbc]).all():
        raise RejectedError("a position or cell vector is NaN or infinite")
    if z.min() < 1 or z.max() > 118:
        raise RejectedError(f"unknown element: atomic number {int(z.min() if z.min() < 1 else z.max())}")
    if structure.pbc.any() and abs(np.linalg.det(completed(structure.cell, structure.pbc))) < 1e-3:
        raise RejectedError("periodic, with a cell of no volume")
    infinite = [name for name, value in structure.targets.items() if np.isinf(value)]
    if infinite:
        raise RejectedError(f"target {infinite[0]} is infinite")
    if structure.forces is not None:
        if np.shape(structure.forces) != pos.shape:
            raise RejectedError(f"forces of shape {np.shape(structure.forces)} for {len(z)} atoms")
        if not np.isfinite(structure.forces).all():
            raise RejectedError("a force is NaN or infinite")
    near = near_origin(structure)
    if (pair := closest(near.pos, near.cell, near.pbc, OVERLAP)) is not None:
        raise RejectedError(f"atoms {pair[0]} and {pair[1]} are {pair[2]:.3g} Angstrom apart")


def check_edges(arrays: Arrays) -> None:
    """Raise RejectedError where the one graph in `arrays` has no edges."""
    if len(arrays.src) == 0:
        raise RejectedError("no atom has a neighbour within the cutoff")


def _nothing(name: str, like: Arrays) -> np.ndarray:
    """Return the array `name` of graphs that have none."""
    if name == "shift":
        return np.zeros((len(like.src), 3), np.int8)
    return np.full(like.pos.shape, np.nan, np.float32) if name == "forces" else np.full(len(like.ids), b"")


def _offsets(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


_checked: dict[tuple[str, int, int, int], str] = {}  # file as it was when its bytes were read -> their sha256


def check_bytes(path: Path, shard: Shard, anew: bool = False) -> None:
    """Raise InputError where the file `path` is not the one that manifest.json describes as `shard`.

    Its bytes are read once a process, and again where the file has changed or `anew` asks for it.
    """
    found = _of_the_right_size(path, shard)
    key = str(path), found.st_ino, found.st_size, found.st_mtime_ns
    try:
        if anew or key not in _checked:
            _checked[key] = file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if _checked[key] != shard.sha256:
        raise InputError(_altered(path))


def _of_the_right_size(path: Path, shard: Shard) -> os.stat_result:
    try:
        found = path.stat()
    except OSError:
        raise InputError(f"{path}: missing, though {FILE_NAME} lists it") from None
    if found.st_size != shard.bytes:
        raise InputError(f"{path}: {found.st_size} bytes where {FILE_NAME} says {shard.bytes}: truncated or altered")
    return found


def _shape(place: str, shard: Shard) -> tuple[int, ...]:
    """Return the shape that the array `place` of a shard must have."""
    room, _, name = place.partition("/")
    length = {"atoms": shard.atoms, "edges": shard.edges}.get(room, shard.graphs + name.endswith("_ptr"))
    rest = {"pos": (3,), "forces": (3,), "cell": (3, 3), "pbc": (3,), "shift": (3,)}
    return (length, *(rest.get(name, ()) if room != "targets" else ()))


def _altered(path: Path) -> str:
    return (
        f"{path}: its sha256 is not the one in {FILE_NAME}: altered, damaged or of another set; copy it anew or"
        " prepare the data again"
    )


def _read_shard(path: Path, shard: Shard, wanted: Iterable[str], places: dict[str, str]) -> Arrays:
    """Read of one shard the arrays `places` and the targets `wanted`, and see that they are what was written."""
    asked = [*places.values(), *(f"targets/{name}" for name in wanted)]
    alone = all(place in shard.arrays for place in asked)
    (_of_the_right_size if alone else check_bytes)(path, shard)
    try:
        with h5py.File(path, "r", locking=False) as file:
            version = int(file.attrs.get("schema_version", -1))
            if version != SCHEMA:
                raise InputError(f"{path}: schema version {version}; this hpc_kit reads version {SCHEMA}")
            for place in asked:  # before anything is read: a small file can claim arrays of any size
                if place in file and (shape := file[place].shape) != (right := _shape(place, shard)):
                    raise InputError(f"{path}: {place} is of shape {shape} where {FILE_NAME} says {right}")
            still = "shift" in places and not file["graphs/pbc"][:].any()  # nothing is periodic: all shifts are 0
            found = {
                place: file[place][:]
                for place in asked
                if place in file and not (still and place == _PLACES["shift"])
            }
    except (OSError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable shard: {error}") from None
    if alone and any(place in found and array_sha256(found[place]) != shard.arrays[place] for place in asked):
        raise InputError(_altered(path))
    needed = [_PLACES[name] for name in _REQUIRED if name in places] + [f"targets/{name}" for name in wanted]
    if absent := [place for place in needed if place not in found]:
        raise InputError(f"{path}: not a readable shard: it has no {absent[0]}")
    targets = {name: found[f"targets/{name}"] for name in wanted}
    return Arrays(
        targets=targets, **{name: found.get(place) if name in places else None for name, place in _PLACES.items()}
    )
