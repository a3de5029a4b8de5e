"""Looks at a shard set without changing it: is it whole, and what is in it."""

from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.prepare import PROGRESS
from hpc_kit.data.rejects import REJECTS, read_reasons
from hpc_kit.data.shards import check_bytes, read_shard_set, read_targets
from hpc_kit.spec.errors import InputError


def verify(folder: Path) -> list[str]:
    """Return everything that is wrong with a shard set, [] where nothing is.

    Raises InputError where there is no readable manifest. Every byte of every shard is read.
    """
    manifest = read_manifest(folder)
    problems = []
    for number, shard in enumerate(manifest.shards):
        path = folder / shard.file
        try:
            check_bytes(path, shard, anew=True)
            arrays = read_shard_set(folder, manifest, [number])
        except InputError as error:
            problems.append(str(error))
            continue
        first = sum(s.graphs for s in manifest.shards[:number])
        atoms = manifest.atoms_per_graph[first : first + shard.graphs]
        if np.diff(arrays.atom_ptr).tolist() != atoms:
            problems.append(f"{path}: its graphs have other sizes than manifest.json says")
    listed = {shard.file for shard in manifest.shards}
    problems += [f"{path}: not in manifest.json" for path in sorted(folder.glob("*.h5")) if path.name not in listed]
    if (folder / PROGRESS).exists():
        problems.append(f"{folder / PROGRESS}: left by an unfinished preparation")
    try:
        rejects = len(read_reasons(folder)) if (folder / REJECTS).exists() else 0
        if rejects != manifest.rejected:
            problems.append(f"{folder / REJECTS}: {rejects} rejects where manifest.json says {manifest.rejected}")
    except InputError as error:
        problems.append(str(error))
    return problems


def info(folder: Path) -> dict[str, Any]:
    """Return what a shard set holds: counts, sizes, histograms of atoms and edges, targets with mean and MAD."""
    manifest = read_manifest(folder)
    values = read_targets(folder, manifest)
    targets = {}
    for name, target in manifest.targets.items():
        known = values[name][np.isfinite(values[name])]
        mean = float(known.mean()) if len(known) else None
        targets[name] = {
            "unit": target.unit,
            "description": target.description,
            "known": len(known),
            "mean": mean,
            "mad": float(np.abs(known - mean).mean()) if len(known) else None,
            "min": float(known.min()) if len(known) else None,
            "max": float(known.max()) if len(known) else None,
        }
    stored = {"element": manifest.graphs, "position": manifest.graphs, "forces": manifest.graphs_with_forces()}
    return {
        "name": manifest.name,
        "sha256": manifest.sha256,
        "source": manifest.source,
        "graph": manifest.graph,
        "graphs": manifest.graphs,
        "atoms": sum(shard.atoms for shard in manifest.shards),
        "edges": sum(shard.edges for shard in manifest.shards),
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "rejected": manifest.rejected,
        "elements": manifest.elements,
        "per_atom": stored,
        "left_out": manifest.left_out,
        "splits": {name: {part: len(ids) for part, ids in parts.items()} for name, parts in manifest.splits.items()},
        "atoms_per_graph": _histogram(manifest.atoms_per_graph),
        "edges_per_graph": _histogram(manifest.edges_per_graph),
        "targets": targets,
    }


def _histogram(sizes: list[int], bins: int = 10) -> list[dict[str, int]]:
    """Return up to `bins` equal ranges of whole numbers, both ends included, and how many sizes fall into each."""
    if not sizes:
        return []
    width = -(-(max(sizes) - min(sizes) + 1) // bins)
    starts = range(min(sizes), max(sizes) + 1, width)
    counts = np.bincount((np.array(sizes) - min(sizes)) // width, minlength=len(starts))
    return [
        {"from": start, "to": start + width - 1, "count": int(n)} for start, n in zip(starts, counts, strict=True)
    ]
