"""From a source to a shard set, in parallel, restartable, with the same bytes whatever the number of processes.

Shard k holds the records k*size .. (k+1)*size-1 of the source. Of several ranks, rank r writes the shards with
k % ranks == r and rank 0 writes manifest.json when all are there. A shard is finished when its sidecar in
`.progress/` is; a restart keeps finished shards whose bytes still match. What cannot be used goes by id and reason
into rejects.jsonl.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.convert import chunks, convert, unique
from hpc_kit.data.manifest import FILE_NAME, SCHEMA, Manifest, Shard, content_sha256, read_manifest
from hpc_kit.data.rejects import REJECTS, commonest, write_rejects
from hpc_kit.data.shards import concatenate, read_ids, write_shard
from hpc_kit.data.sources import Source
from hpc_kit.data.workers import Workers
from hpc_kit.files import file_sha256, is_of_disk, remove_leftovers, write_atomically, write_json
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, WorkError

PROGRESS = ".progress"
POLL_S = 0.2


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a shard set, beside the source: `graph` None stores atoms only."""

    graph: Graph | None
    shard_size: int = 2048
    limit: int | None = None


def prepare(
    source: Source,
    out: Path,
    settings: Settings,
    workers: int = 1,
    rank: int = 0,
    ranks: int = 1,
    show: Callable[[int, int], None] = lambda done, rejected: None,
) -> Manifest:
    """Write `source` as a shard set into the folder `out` with `workers` processes on this rank (0: this one).

    `show` is called with the records done and rejected so far by this rank. Returns the manifest once all ranks
    have finished. Raises InputError where `out` holds another set, or the source is empty or cannot be read,
    WorkError where the disk is full, or where a worker or another rank died.
    """
    try:
        return _prepare(source, out, settings, workers, rank, ranks, show)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(
            f"{out}: not prepared: {where}{error.strerror or error}; finished shards are kept: mend that and run the"
            " same command again"
        ) from None


def _prepare(source, out, settings, workers, rank, ranks, show) -> Manifest:
    content = _content(source, settings)
    if (out / FILE_NAME).exists():
        return _finished(out, content)
    progress = out / PROGRESS
    _claim(out, progress, content)
    failure = progress / f"rank-{rank}.failed"
    failure.unlink(missing_ok=True)
    began = progress / f"rank-{rank}.began"
    began.touch()
    try:
        shards = _write_shards(source, out, settings, workers, rank, ranks, show)
        if shards == 0:
            raise InputError(f"source {source.name!r} yields no records")
        if rank == 0:
            _wait_for(progress, shards, began)
            return _write_manifest(source, out, settings, content, shards)
    except BaseException as error:
        with contextlib.suppress(OSError):
            began.write_text(str(error))
        os.utime(began)
        began.rename(failure)  # takes no room: also on a full disk the other ranks learn of it
        raise
    while not (out / FILE_NAME).exists():
        _raise_if_failed(progress, began)
        time.sleep(POLL_S)
    return read_manifest(out)


def _write_shards(source, out, settings, workers, rank, ranks, show) -> int:
    """Write this rank's shards; return how many the set has in all."""
    shards = 0
    totals = [0, 0]
    pending: set[Future] = set()
    begun: list[Path] = []

    def count(done: int, rejected: int) -> None:
        totals[:] = totals[0] + done, totals[1] + rejected
        show(*totals)

    try:
        with Workers(workers) as pool:
            for number, records in enumerate(chunks(unique(source.records(), settings.limit), settings.shard_size)):
                shards = number + 1
                if number % ranks != rank:
                    continue
                kept = _finished_shard(out, number)
                if kept is not None:
                    count(len(records), len(kept["rejects"]))
                    continue
                begun += [_shard(out, number), _sidecar(out, number)]
                pending.add(pool.submit(_write_one, source, out, settings, number, records))
                while len(pending) > workers:  # one shard waits; more would only hold memory
                    ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in ended:
                        count(*future.result())
            for future in pending:
                count(*future.result())
    finally:
        remove_leftovers(*begun)
    return shards


def _write_one(source: Source, out: Path, settings: Settings, number: int, records: list) -> tuple[int, int]:
    """Convert the records of one shard and write it and its sidecar; return (records, rejects). In a worker."""
    parts, rejects = convert(source, records, source.targets, settings.graph)
    sidecar: dict[str, Any] = {"shard": None, "rejects": rejects}
    if parts:
        arrays = concatenate([part for _, part in parts])
        structures = [structure for structure, _ in parts]
        shard = write_shard(_shard(out, number), arrays, source.targets, source.origin, settings.graph)
        sidecar |= {
            "shard": shard.model_dump(),
            "atoms": (arrays.atom_ptr[1:] - arrays.atom_ptr[:-1]).tolist(),
            "edges": [] if arrays.edge_ptr is None else (arrays.edge_ptr[1:] - arrays.edge_ptr[:-1]).tolist(),
            "elements": sorted({int(z) for z in arrays.z}),
            "periodic": bool(arrays.pbc.any()),
            "with_forces": sum(structure.forces is not None for structure in structures),
            "left_out": sorted({name for structure in structures for name in structure.left_out}),
            "known": {name: int(np.isfinite(values).sum()) for name, values in arrays.targets.items()},
        }
    write_json(_sidecar(out, number), sidecar | {"sha256": content_sha256(sidecar)})
    return len(records), len(rejects)


def _content(source: Source, settings: Settings) -> dict[str, Any]:
    """Return what must agree for two preparations to give the same set, as plain JSON."""
    fields = {
        "schema_version": SCHEMA,
        "name": source.name,
        "source": source.origin,
        "targets": {name: target.model_dump() for name, target in source.targets.items()},
        "graph": settings.graph.model_dump() if settings.graph else None,
        "shard_size": settings.shard_size,
        "limit": settings.limit,
    }
    return json.loads(json.dumps(fields))


def _claim(out: Path, progress: Path, content: dict[str, Any]) -> None:
    """Make `out` this preparation's folder. Raises InputError where it is another's."""
    settings = progress / "settings.json"
    try:
        if settings.exists():
            if json.loads(settings.read_text()) != content:
                raise InputError(f"{out}: holds an unfinished preparation with other settings; choose another --out")
            return
        if out.exists() and any(path.name != PROGRESS for path in out.iterdir()):
            raise InputError(f"{out}: is not empty; choose another --out")
        progress.mkdir(parents=True, exist_ok=True)
        write_json(settings, content)
    except ValueError:
        raise InputError(f"{settings}: damaged: remove {out} and prepare it again, or choose another --out") from None
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{out}: cannot be written: {error.strerror}") from None


def _finished(out: Path, content: dict[str, Any]) -> Manifest:
    manifest = read_manifest(out)
    if manifest.prepared != content:
        raise InputError(f"{out}: holds a shard set made with other settings; choose another --out")
    return manifest


def _sidecar(out: Path, number: int) -> Path:
    return out / PROGRESS / f"shard-{number:05d}.json"


def _shard(out: Path, number: int) -> Path:
    return out / f"shard-{number:05d}.h5"


def _read_sidecar(out: Path, number: int) -> dict[str, Any]:
    """Return what is noted of a finished shard. Raises InputError where it is not what was written."""
    path = _sidecar(out, number)
    try:
        sidecar = json.loads(path.read_text())
        if sidecar["sha256"] == content_sha256(sidecar):
            return sidecar
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: was altered or damaged: remove it and run the same command again")


def _finished_shard(out: Path, number: int) -> dict[str, Any] | None:
    """Return the sidecar of a shard that an earlier attempt finished and that is still intact."""
    try:
        sidecar = _read_sidecar(out, number)
    except (FileNotFoundError, InputError):
        return None
    if sidecar["shard"] is None:
        return sidecar
    shard = Shard(**sidecar["shard"])
    path = out / shard.file
    intact = path.is_file() and path.stat().st_size == shard.bytes and file_sha256(path) == shard.sha256
    return sidecar if intact else None


def _wait_for(progress: Path, shards: int, began: Path) -> None:
    while len(list(progress.glob("shard-*.json"))) < shards:
        _raise_if_failed(progress, began)
        time.sleep(POLL_S)


def _raise_if_failed(progress: Path, began: Path) -> None:
    """Raise WorkError if another rank has failed since this one began."""
    for path in progress.glob("rank-*.failed"):
        if path.stat().st_mtime_ns >= began.stat().st_mtime_ns:
            raise WorkError(f"{path.stem} failed: {path.read_text()}")


def _known(splits: dict, out: Path, sidecars: list[dict]) -> dict:
    """Return published splits without the identifiers that `limit` or a reject keeps out of the set."""
    if not splits:
        return {}
    here = {id.decode() for id in read_ids(out, [Shard(**sidecar["shard"]) for sidecar in sidecars])}
    return {
        name: {part: [i for i in ids if i in here] for part, ids in parts.items()} for name, parts in splits.items()
    }


def _write_manifest(source: Source, out: Path, settings: Settings, content: dict, shards: int) -> Manifest:
    """Gather the sidecars into rejects.jsonl and manifest.json, the latter written last."""
    sidecars = [_read_sidecar(out, number) for number in range(shards)]
    rejects = [(id, reason) for sidecar in sidecars for id, reason in sidecar["rejects"]]
    write_rejects(out, rejects)
    full = [sidecar for sidecar in sidecars if sidecar["shard"] is not None]
    if not full:
        reasons = commonest(reason for _, reason in rejects)
        raise InputError(f"all {len(rejects)} records were rejected: {reasons}. {out / REJECTS} says why, by id")
    known = {name: sum(sidecar["known"][name] for sidecar in full) for name in source.targets}
    if known and not any(known.values()):
        raise InputError(f"no structure has a value of {' or '.join(known)}: there would be nothing to learn")
    fields = Manifest(
        schema_version=SCHEMA,
        name=source.name,
        source=source.origin,
        targets=source.targets,
        graph=settings.graph.model_dump() if settings.graph else None,
        elements=sorted({z for sidecar in full for z in sidecar["elements"]}),
        periodic=any(sidecar["periodic"] for sidecar in full),
        forces=all(sidecar["with_forces"] == len(sidecar["atoms"]) for sidecar in full),
        with_forces=sum(sidecar["with_forces"] for sidecar in full),
        left_out=sorted({name for sidecar in full for name in sidecar["left_out"]}),
        known=known,
        shards=[sidecar["shard"] for sidecar in full],
        atoms_per_graph=[n for sidecar in full for n in sidecar["atoms"]],
        edges_per_graph=[n for sidecar in full for n in sidecar["edges"]],
        rejected=len(rejects),
        splits=_known(source.splits, out, full),
        prepared=content,
        sha256="",
    ).model_dump()
    fields["sha256"] = content_sha256(fields)
    write_atomically(out / FILE_NAME, json.dumps(fields).encode())
    shutil.rmtree(out / PROGRESS)
    return read_manifest(out)
