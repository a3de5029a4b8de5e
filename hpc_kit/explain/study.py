"""All that is done to explain models on one input: maps a piece at a time, what they say of elements and roles, a
gallery, and trust. For the job (run.py) and the command (command.py) alike."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.manifest import FILE_NAME, Manifest, read_manifest
from hpc_kit.data.rejects import commonest
from hpc_kit.data.sampling import Limits, cut
from hpc_kit.data.shards import Arrays, read_ids
from hpc_kit.explain.drawing import need_rdkit
from hpc_kit.explain.explainer import Explainer, unit_of
from hpc_kit.explain.gallery import gallery
from hpc_kit.explain.job import Explain, Model
from hpc_kit.explain.output import part_of, read_part, write_part, write_tables
from hpc_kit.explain.roles import Roles, roles_of
from hpc_kit.explain.trusted import Trusted
from hpc_kit.files import file_sha256, write_json
from hpc_kit.predict.inputs import open_inputs
from hpc_kit.predict.predictor import BATCH, Predictor, nothing_left
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.train.best import read_best

Between = Callable[[int, float], None]  # told after each piece how many structures are done and what it took in s


@dataclass
class Done:
    """A model whose maps are all on disk: its parts, and the sums of their sidecars."""

    explainer: Explainer
    parts: list[Path] = field(default_factory=list)
    roles: Roles = field(default_factory=Roles)
    rejects: list[tuple[str, str]] = field(default_factory=list)
    structures: int = 0


class Study:
    """`explain` is done into `folder`: parts/, pictures/, and tables. Paths in it are whole."""

    def __init__(self, explain: Explain, models: list[Model], target: str, folder: Path, device: Any = None):
        self.explain, self.folder, self.target = explain, folder, target
        self.limits = Limits(explain.batch, edges=BATCH.edges)
        self.manifest: Manifest | None = None
        if explain.input and (Path(explain.input[0]) / FILE_NAME).exists():
            self.manifest = read_manifest(Path(explain.input[0]))
        if explain.gallery.forms and explain.gallery.count:
            need_rdkit()
        self.only = self._chosen()
        self.cells = {model.label: model.cell for model in models}
        self.explainers = [self._explainer(model, device) for model in models]

    def _explainer(self, model: Model, device: Any) -> Explainer:
        for one in model.weights:
            if file_sha256(Path(one.path)) != one.sha256:
                raise InputError(f"{one.path}: changed since this was planned; submit the job anew")
        members = [read_best(Path(one.path), self.explain.modules) for one in model.weights]
        predictor = Predictor(members, device, self.explain.precision)
        return Explainer(predictor, self.target, self.explain.methods, self.explain.relu, model.label)

    def maps(self, workers: int, between: Between) -> list[Done]:
        """Make the parts of all models that are not there yet. Raises InputError where a model suits no structure."""
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        found = [Done(explainer) for explainer in self.explainers]
        done = 0
        for one in found:
            for number, key, arrays, rejects, only in self._pieces(one.explainer, workers):
                sidecar = self._part(one.explainer, number, key, arrays, rejects, only)
                done += self._take(one, number, sidecar)
                between(done, sidecar["seconds"])
            if not one.structures:
                raise nothing_left(one.rejects)
        return found

    def _pieces(self, explainer: Explainer, workers: int) -> Iterator[tuple]:
        asked = self.explain
        return pieces_of(asked.input, asked.limit, asked.piece, self.only, explainer.predictor, workers)

    def _part(self, explainer: Explainer, number: int, key: str, arrays, rejects, only) -> dict[str, Any]:
        """Return the sidecar of a piece's part, which is made unless it is there and whole."""
        file = self.folder / "parts" / f"{explainer.label}-{number:05d}.h5"
        try:
            sidecar = json.loads(file.with_suffix(".json").read_text())
            if sidecar["key"] == key and (not sidecar["structures"] or file_sha256(file) == sidecar["sha256"]):
                return sidecar | {"seconds": 0.0}
        except (OSError, ValueError, KeyError, TypeError):  # missing, or not what was written: made anew
            pass
        began = time.perf_counter()
        found = explainer.of_arrays(arrays, rejects, self.explain.allow_unseen, self.limits, only)
        roles = Roles()
        if len(found):
            part = part_of(found, roles_of(found.arrays))
            roles.add(part.z, part.role, part.maps, part.atom_ptr)
            write_part(file, part, explainer)
        content = {
            "file": file.name,
            "key": key,
            "structures": len(found),
            "sha256": file_sha256(file) if len(found) else None,
            "roles": roles.sums,
            "rejects": found.rejects,
        }
        try:
            write_json(file.with_suffix(".json"), content)
        except OSError as error:
            raise WorkError(f"{file.with_suffix('.json')}: not written: {error.strerror}") from None
        return content | {"seconds": time.perf_counter() - began}

    def _take(self, done: Done, number: int, sidecar: dict[str, Any]) -> int:
        if sidecar["structures"]:
            done.parts.append(self.folder / "parts" / sidecar["file"])
        done.roles.merge(sidecar["roles"])
        done.rejects += [tuple(reject) for reject in sidecar["rejects"]]
        done.structures += sidecar["structures"]
        return sidecar["structures"]

    def _chosen(self) -> dict[int, np.ndarray] | None:
        """Return number of a shard -> which of its structures, sorted; None where all are wanted, or of files."""
        asked = self.explain
        if self.manifest is None:
            return None
        named = asked.gallery.identifiers
        rows = np.empty(0, np.int64)
        if named:
            ids = [id.decode() for id in read_ids(Path(asked.input[0]), self.manifest.shards)]
            place = dict(zip(ids, range(len(ids)), strict=True))
            if gone := [id for id in named if id not in place]:
                raise _no_such(gone, asked.input)
            rows = np.array([place[id] for id in named])
        return drawn_from(self.manifest, asked.limit, asked.seed, rows)

    def finish(self, done: list[Done]) -> dict[str, Any]:
        """Return what metrics.json holds; write tables and pictures."""
        tables = [one.parts for one in done]
        gallery = self._gallery(done)
        models = [self._told(one) for one in done]
        between: dict[str, Any] = {}
        if self.explain.trust is not None:
            trusted = Trusted(self.explain.trust, self.explainers)
            for explainer in self.explainers:
                trusted.measure(explainer, self._batches(explainer))
            for model in models:
                model["trust"] = trusted.told(model["label"])
            between = trusted.between()
        if self.explain.csv:
            write_tables(self.folder, zip(self.explainers, tables, [one.roles for one in done], strict=True))
        return {
            "target": self.target,
            "unit": self.explainers[0].unit,
            "methods": list(self.explain.methods),
            "relu": self.explain.relu,
            "models": models,
            "between": between,
            "gallery": gallery,
        }

    def _told(self, done: Done) -> dict[str, Any]:
        explainer, error, rest = done.explainer, [], {}
        baseline: dict[str, list[float]] = {}
        for part in map(read_part, done.parts):
            error += np.abs(part.prediction - part.truth)[np.isfinite(part.truth)].tolist()
            for name, values in part.remainder.items():
                rest.setdefault(name, []).extend(np.abs(values).tolist())
            for name, values in part.baseline.items():
                baseline.setdefault(name, []).extend(values.tolist())
        return {
            "label": explainer.label,
            "cell": self.cells[explainer.label],
            "name": explainer.predictor.spec.name,
            "seeds": len(explainer.predictor.members),
            "exact": explainer.exact,
            "structures": done.structures,
            "rejected": len(done.rejects),
            "why_rejected": commonest(reason for _, reason in done.rejects) if done.rejects else "",
            "mae": float(np.mean(error)) if error else None,
            "units": {m: unit_of(m, explainer.unit, explainer.is_energy) for m in explainer.methods},
            "remainder": {k: {"mean": float(np.mean(v)), "largest": float(np.max(v))} for k, v in rest.items()},
            "baseline": {k: float(np.mean(v)) for k, v in baseline.items()},
            "roles": {m: done.roles.report(m) for m in explainer.methods},
            "trust": {},
        }

    def _batches(self, explainer: Explainer) -> list[tuple[list[str], GraphBatch]]:
        """Return batches of the first structures that are to be judged, on the model's device."""
        left, batches = self.explain.trust.structures, []
        for _, _, arrays, _, only in self._pieces(explainer, 0):
            if arrays is None:
                continue
            index = self._suitable(explainer, arrays, only)[:left]
            store = GraphStore(arrays, list(explainer.predictor.units))
            for members in cut(index, self.limits, store.atoms_per_graph, store.edges_per_graph):
                ids = [store.ids[i].decode() for i in members]
                batches.append((ids, explainer.predictor.ready(store.batch(members))))
            left -= len(index)
            if left <= 0:
                break
        return batches

    def _suitable(self, explainer: Explainer, arrays: Arrays, only: np.ndarray | None) -> np.ndarray:
        _, wrong = explainer.predictor.suits(arrays, self.explain.allow_unseen)
        index = np.arange(len(arrays.ids)) if only is None else only
        return index[~np.isin(index, list(wrong))].astype(np.int64)

    def _gallery(self, done: list[Done]) -> list[dict[str, Any]]:
        asked = self.explain.gallery
        if asked.by != "identifiers" and not asked.count:
            return []
        ranked = []
        for part in map(read_part, done[0].parts):
            value = np.abs(part.prediction - part.truth) if asked.by == "error" else part.prediction
            ranked += zip(value.tolist(), part.ids, strict=True)
        if asked.by == "identifiers":
            known = {id for _, id in ranked}
            if gone := [id for id in asked.identifiers if id not in known]:
                raise _no_such(gone, self.explain.input)
            names = asked.identifiers
        else:
            ranked = [(value, id) for value, id in ranked if value == value]
            if not ranked:
                raise InputError("gallery by error: the input states no true values to compare with")
            names = [id for _, id in sorted(ranked, key=lambda pair: -pair[0])[: asked.count]]
        return gallery(names, [(one.explainer, one.parts) for one in done], self.folder / "pictures", asked.forms)


def drawn_from(
    manifest: Manifest, limit: int | None, seed: int, first: np.ndarray | None = None
) -> dict[int, np.ndarray] | None:
    """Return number of a shard -> which of its structures, sorted, of `limit` drawn at random, the rows `first` among
    them; None where all are wanted."""
    if limit is None or limit >= manifest.graphs:
        return None
    rows = np.empty(0, np.int64) if first is None else first
    drawn = np.random.default_rng(seed).permutation(manifest.graphs)
    drawn = np.concatenate([rows, drawn[~np.isin(drawn, rows)]])[: max(limit, len(rows))]
    ends = np.cumsum([shard.graphs for shard in manifest.shards])
    shard = np.searchsorted(ends, drawn, side="right")
    start = np.concatenate([[0], ends])[shard]
    return {int(n): np.sort(drawn[shard == n] - start[shard == n]) for n in np.unique(shard)}


def pieces_of(
    paths: list[str],
    limit: int | None,
    size: int,
    only: dict[int, np.ndarray] | None,
    predictor: Predictor,
    workers: int,
) -> Iterator[tuple]:
    """Yield of each piece of the input its number, key, arrays with edges (None: all rejected), rejects, and which of
    its structures are wanted (None: all): those of `only` (drawn_from), else the first `limit`."""
    wanted = lambda number, key: True  # noqa: E731
    if only is not None:
        wanted = lambda number, key: number in only  # noqa: E731
    elif limit is not None:
        count = -(-limit // size)  # pieces of equal size
        size = -(-limit // count)
    pieces = open_inputs(paths, predictor.units, predictor.graph, size)
    for number, key, arrays, rejects in pieces.load(workers, wanted):
        some = None if only is None else only[number]
        if only is None and limit is not None:
            if number * size >= limit:
                return
            some = np.arange(limit - number * size)
        if arrays is not None and some is not None:
            some = some[some < len(arrays.ids)]
        yield number, key, arrays, rejects, some


def _no_such(gone: list[str], inputs: list[str]) -> InputError:
    some = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
    return InputError(f"gallery.identifiers: {some}: not among the structures explained of {', '.join(inputs)}")
