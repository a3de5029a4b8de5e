"""All that is done to map what models have learned: features of each model, maps of them on the same structures, how
rough the properties are over them, tables, and what the page shows."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.manifest import FILE_NAME, read_manifest
from hpc_kit.data.rejects import commonest
from hpc_kit.data.sampling import Limits
from hpc_kit.embed.chemistry import fingerprints, has_rdkit
from hpc_kit.embed.features import Embedder, Features, join, read_features, write_features
from hpc_kit.embed.job import Embed, Learner
from hpc_kit.embed.maps import Mapped, maps_of, need_maps
from hpc_kit.embed.output import write_map, write_tables
from hpc_kit.embed.roughness import rank_correlation, roughness
from hpc_kit.explain.study import drawn_from, pieces_of
from hpc_kit.files import file_sha256
from hpc_kit.predict.predictor import BATCH, Predictor, nothing_left
from hpc_kit.runs.layout import task_directory
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.split import PARTS
from hpc_kit.train.best import read_best

Between = Callable[[int, float], None]  # told after each piece how many structures are done and what it took in s
FINGERPRINTS = "fingerprints"  # in the place of a model


class Study:
    """`embed` is done into `folder`: features/, tables, map.json. Paths in it are whole."""

    def __init__(self, embed: Embed, models: list[Learner], units: dict[str, str], folder: Path, device: Any = None):
        self.embed, self.models, self.units, self.folder, self.device = embed, models, units, folder, device
        self.limits, self.notes = Limits(embed.batch, edges=BATCH.edges), []
        need_maps(embed.umap)
        if embed.roughness and "tanimoto" in embed.roughness.distances and not has_rdkit():
            raise InputError("roughness.distances: tanimoto needs rdkit: pip install 'hpc_kit[explain]'")
        source = Path(embed.input[0])
        self.manifest = read_manifest(source) if (source / FILE_NAME).exists() else None
        if self.manifest is not None and embed.roughness:
            if reason := self.manifest.other_targets(list(units)):
                raise InputError(f"roughness: {reason}; roughness: null leaves it out")
        self.only = drawn_from(self.manifest, embed.limit, embed.seed) if self.manifest else None

    def features(self, workers: int, between: Between) -> list[Features]:
        """Return the features of each model on the structures that all of them are for, in one order. Of a shard set
        what an earlier attempt has written is kept, a model a file."""
        (self.folder / "features").mkdir(parents=True, exist_ok=True)
        found, done = [], 0
        for model in self.models:
            file = self.folder / "features" / f"{model.label}.h5"
            try:
                one = read_features(file) if self.manifest is not None else None
            except (OSError, KeyError, ValueError):  # missing, or not what was written: made anew
                one = None
            if one is None:
                one = self._features_of(model, workers, lambda n, s, done=done: between(done + n, s))
                write_features(file, one, model.label, self.units)
            done += len(one)
            found.append(one)
        shared = set(found[0].ids).intersection(*(one.ids for one in found[1:]))
        most = max(map(len, found))
        if not shared:
            raise InputError("no structure suits all of the models")
        if len(shared) < most:
            self.notes.append(f"{most - len(shared)} structures that do not suit every model are left out.")
        first = [id for id in found[0].ids if id in shared]
        places = [dict(zip(one.ids, range(len(one)), strict=True)) for one in found]
        return [one.rows(np.array([place[id] for id in first])) for one, place in zip(found, places, strict=True)]

    def _features_of(self, model: Learner, workers: int, between: Between) -> Features:
        (weights,), asked = model.weights, self.embed
        if file_sha256(Path(weights.path)) != weights.sha256:
            raise InputError(f"{weights.path}: changed since this was planned; submit the job anew")
        predictor = Predictor([read_best(Path(weights.path), asked.modules)], self.device)
        embedder = Embedder(predictor, model.units, asked.pool, self.limits, asked.allow_unseen)
        parts, done, began = [], 0, time.perf_counter()
        pieces = pieces_of(asked.input, asked.limit, asked.piece, self.only, predictor, workers)
        for _, _, arrays, rejects, only in pieces:
            parts.append(embedder.of_arrays(arrays, rejects, only))
            done += len(parts[-1])
            between(done, time.perf_counter() - began)
            began = time.perf_counter()
        found = join(parts)
        if not len(found):
            raise nothing_left(found.rejects)
        return found

    def finish(self, found: list[Features], between: Callable[[], None]) -> dict[str, Any]:
        """Return what metrics.json holds; write tables and what the page shows. `between`: called between models."""
        parts = self._parts(found[0].ids)
        mapped = []
        for model, one in zip(self.models, found, strict=True):
            mapped.append(maps_of(one.features, self.embed.umap))
            print(f"{model.label}: mapped", flush=True)
            between()
        models = [self._told(*each, parts) for each in zip(self.models, found, mapped, strict=True)]
        rows = []
        if self.embed.roughness:
            rows = self._roughness(found, models, between)
        write_tables(self.folder, self.models, self.units, found, mapped, parts, rows)
        labels = [model.label for model in self.models]
        sha256 = write_map(self.folder / "map.json", self.embed, labels, self.units, found, mapped, parts)
        widths = sorted({model["width"] for model in models})
        if rows and len(widths) > 1:
            self.notes.append(
                f"The models have features of different width ({', '.join(map(str, widths))}): a larger width makes"
                " ROGI smaller by itself. Compare ROGI-XD, and each with its shuffled value."
            )
        return {
            "units": self.units,
            "structures": len(found[0]),
            "models": models,
            "roughness": rows,
            "correlations": correlations(rows, models),
            "notes": self.notes,
            "map_sha256": sha256,
        }

    def _told(self, model: Learner, found: Features, mapped: Mapped, parts: np.ndarray | None) -> dict[str, Any]:
        equal = len(found) - mapped.distinct
        if equal:
            self.notes.append(f"{model.label}: {equal} of {len(found)} structures have the features of another.")
        if mapped.fitted and mapped.fitted < mapped.distinct:
            self.notes.append(
                f"{model.label}: UMAP is fitted on {mapped.fitted} structures, the others are put into that map."
            )
        tested = np.ones(len(found), bool) if parts is None or not (parts == "test").any() else parts == "test"
        mae = {}
        for name in model.units:
            error = np.abs(found.prediction[name] - found.truth[name])[tested]
            known = np.isfinite(error)
            mae[name] = float(error[known].mean()) if known.any() else None
        return {
            "label": model.label,
            "cell": model.cell,
            "width": found.features.shape[1],
            "mae": mae,
            "mae_of": "all structures" if tested.all() else f"{int(tested.sum())} structures of the test part",
            "rejected": len(found.rejects),
            "why_rejected": commonest(reason for _, reason in found.rejects) if found.rejects else "",
            "distinct": mapped.distinct,
            "fitted": mapped.fitted,
            "trustworthiness": mapped.trustworthiness,
            "variance": mapped.explained,
        }

    def _parts(self, ids: list[str]) -> np.ndarray | None:
        """Return the part of the training's split that each structure is in ("": in none); None where the models were
        trained on different splits, or this is not known."""
        import json

        files = {}
        for model in self.models:
            folder = task_directory(Path(model.weights[0].path).parent)
            if not folder.task_file.exists() or not folder.splits.is_dir():
                return None
            files |= {path.name: path for path in folder.splits.glob("*.json")}
        if len(files) != 1:
            return None
        try:
            told = json.loads(next(iter(files.values())).read_text())
            home = {id: part for part in PARTS for id in told[part]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if self.manifest is None or told.get("dataset_sha256") != self.manifest.sha256:
            return None
        return np.array([home.get(id, "") for id in ids])

    def _roughness(self, found: list[Features], models: list[dict], between: Callable[[], None]) -> list[dict]:
        asked, rows = self.embed.roughness, []
        options = {"size": asked.size, "subsets": asked.subsets, "seed": asked.seed, "whole": asked.whole}
        kinds = [kind for kind in asked.distances if kind != "tanimoto"]
        bits, of = fingerprints(found[0]) if "tanimoto" in asked.distances else (None, None)
        for name in self.units:
            having = [i for i, model in enumerate(self.models) if name in model.units]
            truth = found[having[0]].truth[name]
            known = np.flatnonzero(np.isfinite(truth))
            if not len(known):
                raise InputError(f"roughness: the input states no true {name}; roughness: null leaves it out")
            for i in having:
                for kind in kinds:
                    made = roughness(found[i].features[known], truth[known], kind, **options)
                    rows.append(self._row(models[i]["label"], models[i]["width"], name, kind, made))
                    print(f"{models[i]['label']}: roughness of {name}, {kind}", flush=True)
                between()
            if bits is not None:
                good = np.isfinite(truth[of])
                made = roughness(bits[good], truth[of][good], "tanimoto", **options)
                rows.append(self._row(FINGERPRINTS, bits.shape[1], name, "tanimoto", made))
        return rows

    def _row(self, label: str, width: int, target: str, kind: str, made: Any) -> dict[str, Any]:
        return {"model": label, "width": width, "target": target, "distance": kind, **asdict(made)}


def correlations(rows: list[dict[str, Any]], models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each target, distance and index how it goes together with the error over models: what
    rank_correlation gives, and `each`, the correlation in each subset."""
    error = {(model["label"], name): mae for model in models for name, mae in model["mae"].items()}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if error.get((row["model"], row["target"])) is not None:
            groups.setdefault((row["target"], row["distance"]), []).append(row)
    found = []
    for (target, distance), members in groups.items():
        errors = [error[row["model"], target] for row in members]
        for number, (key, index) in enumerate((("rogi", "ROGI"), ("rogi_xd", "ROGI-XD"))):
            made = rank_correlation([row[key] for row in members], errors)
            subsets = zip(*(row["each"] for row in members), strict=True)
            each = [_spearman([one[number] for one in subset], errors) for subset in subsets]
            told = {"target": target, "distance": distance, "index": index}
            found.append(told | made | {"each": [value for value in each if value is not None]})
    return found


def _spearman(first: list[float], second: list[float]) -> float | None:
    from scipy.stats import rankdata

    a, b = rankdata(first), rankdata(second)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and np.ptp(a) and np.ptp(b) else None
