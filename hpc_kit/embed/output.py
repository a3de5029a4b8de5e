"""Maps and roughness on disk: tables in CSV, and map.json, which the page shows."""

import base64
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from hpc_kit.embed.chemistry import drawings, has_rdkit
from hpc_kit.embed.features import Features
from hpc_kit.embed.job import Embed, Learner
from hpc_kit.embed.maps import Mapped
from hpc_kit.files import atomic_path, digest_of, write_atomically
from hpc_kit.spec.errors import WorkError
from hpc_kit.spec.split import PARTS

_AXES = "xyz"
_ROUGH = ("model", "width", "target", "distance", "n", "size", "subsets", "rogi", "rogi_sd", "rogi_permuted",
          "rogi_whole", "rogi_xd", "rogi_xd_sd", "rogi_xd_permuted", "rogi_xd_whole")  # fmt: skip


def element_counts(found: Features) -> dict[str, np.ndarray]:
    """Return symbol -> [n]: how many atoms of each element a structure has, of the elements that occur."""
    graph = np.repeat(np.arange(len(found)), np.diff(found.atom_ptr))
    return {
        chemical_symbols[z]: np.bincount(graph[found.z == z], minlength=len(found))
        for z in np.unique(found.z).tolist()
    }


def write_tables(
    folder: Path,
    models: Sequence[Learner],
    units: dict[str, str],
    found: Sequence[Features],
    mapped: Sequence[Mapped],
    parts: np.ndarray | None,
    rows: list[dict[str, Any]],
) -> None:
    """Write maps.csv (a row a model and structure) and roughness.csv. Raises WorkError."""
    counts = element_counts(found[0])
    maps = list(mapped[0].coordinates)
    places = [f"{name} {axis}" for name in maps for axis in _AXES[: int(name[-1])]]
    values = [f"{kind} {name} [{unit}]" for name, unit in units.items() for kind in ("true", "predicted")]
    head = ["model", "id", "part", *counts, *values, *places]

    def lines() -> Iterator[list]:
        unknown = np.full(len(found[0]), np.nan)
        for model, one, drawn in zip(models, found, mapped, strict=True):
            columns = [[""] * len(one) if parts is None else parts.tolist(), *(c.tolist() for c in counts.values())]
            for name in units:
                columns += [of.get(name, unknown).tolist() for of in (one.truth, one.prediction)]
            for name in maps:
                at = drawn.coordinates.get(name, np.full((len(one), int(name[-1])), np.nan))
                columns += [[float(f"{v:.6g}") for v in column] for column in at.T.tolist()]
            for id, *row in zip(one.ids, *columns, strict=True):
                yield [model.label, id, *("" if value != value else value for value in row)]

    _write_csv(folder / "maps.csv", head, lines())
    if rows:
        told = (["" if row[key] is None else row[key] for key in _ROUGH] for row in rows)
        _write_csv(folder / "roughness.csv", list(_ROUGH), told)


def _write_csv(path: Path, head: list[str], rows: Any) -> None:
    try:
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows(rows)
    except OSError as error:
        raise WorkError(f"{path}: not written: {error.strerror}") from None


def write_map(
    path: Path,
    asked: Embed,
    labels: Sequence[str],
    units: dict[str, str],
    found: Sequence[Features],
    mapped: Sequence[Mapped],
    parts: np.ndarray | None,
) -> str:
    """Write what the page shows of `page` structures at most, drawn at random, and return its sha256. Numbers are
    base64 of little-endian float32, places in a map of int16, in the same scale along all axes. Raises WorkError."""
    n = len(found[0])
    rows = np.arange(n)
    if n > asked.page:
        rows = np.sort(np.random.default_rng(asked.seed).permutation(n)[: asked.page])
    first = found[0].rows(rows)
    columns = [
        {"name": f"atoms of {symbol}", "unit": "", "values": _numbers(counts)}
        for symbol, counts in element_counts(first).items()
    ]
    if parts is not None:
        names = [*PARTS, ""]
        codes = np.array([names.index(part) for part in parts[rows].tolist()])
        columns.append({"name": "part of the split", "names": [*PARTS, "none"], "values": _numbers(codes)})
    models = []
    for label, one, drawn in zip(labels, found, mapped, strict=True):
        own = []
        for name in one.prediction:
            truth, prediction = one.truth[name][rows], one.prediction[name][rows]
            for what, values in (
                ("true", truth),
                ("predicted", prediction),
                ("error of", np.abs(prediction - truth)),
            ):
                if np.isfinite(values).any():
                    own.append({"name": f"{what} {name}", "unit": units[name], "values": _numbers(values)})
        maps = {name: _places(at[rows]) for name, at in drawn.coordinates.items()}
        models.append({"label": label, "columns": own, "maps": maps, "trust": drawn.trustworthiness})
    shown = {
        "ids": first.ids,
        "of": n,
        "columns": columns,
        "models": models,
        "drawings": drawings(first) if asked.drawings and has_rdkit() else None,
    }
    content = json.dumps(shown, separators=(",", ":"), allow_nan=False).encode()
    try:
        write_atomically(path, content)
        with path.open("rb") as file:
            return digest_of(file)
    except OSError as error:
        raise WorkError(f"{path}: not written: {error.strerror}") from None


def _numbers(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _places(at: np.ndarray) -> str:
    """Return the places, centred, as int16, one structure after another. The farthest from the centre is at 32767."""
    if not len(at):
        return ""
    centred = at - (at.min(axis=0) + at.max(axis=0)) / 2
    largest = float(np.abs(centred).max()) or 1.0
    return base64.b64encode(np.round(centred / largest * 32767).astype("<i2").tobytes()).decode()
