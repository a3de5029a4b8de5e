"""Chosen structures with all that a picture of them needs, and the pictures as files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from hpc_kit.explain.attribution import SIGNED
from hpc_kit.explain.drawing import Drawn, draw
from hpc_kit.explain.explainer import Explainer, unit_of
from hpc_kit.explain.output import Part, read_part
from hpc_kit.explain.roles import bonded
from hpc_kit.files import write_atomically
from hpc_kit.spec.errors import WorkError

Chosen = dict[str, tuple[Part, int]]


def gallery(
    names: list[str], models: list[tuple[Explainer, list[Path]]], folder: Path, forms: list[str]
) -> list[dict[str, Any]]:
    """Return an entry a structure, in the order of `names`: id, symbols, positions, cell (None of a molecule), true
    value, and of each model that explained it the prediction, the values of each map, the end of its colours, and
    the files of its pictures in `folder`. All pictures of a model and method have the same scale. Raises WorkError
    where they cannot be written."""
    found = [_find(names, parts) for _, parts in models]
    limits = [
        {method: _limit(chosen, method) for method in explainer.methods}
        for (explainer, _), chosen in zip(models, found, strict=True)
    ]
    if forms:
        folder.mkdir(exist_ok=True)
    entries = []
    for number, name in enumerate(names):
        part, row = next(chosen[name] for chosen in found if name in chosen)
        entry = _structure(part, row) | {"models": {}}
        for (explainer, _), chosen, limit in zip(models, found, limits, strict=True):
            if name in chosen:
                entry["models"][explainer.label] = _of_model(explainer, *chosen[name], limit, folder, forms, number)
        entries.append(entry)
    return entries


def _find(names: list[str], parts: list[Path]) -> Chosen:
    wanted, chosen = set(names), {}
    for part in map(read_part, parts):
        for row, id in enumerate(part.ids):
            if id in wanted:
                chosen[id] = (part, row)
    return chosen


def _limit(chosen: Chosen, method: str) -> float:
    """Return the largest absolute value of a map in all chosen structures: where its colours end."""
    most = [np.abs(part.maps[method][_atoms(part, row)]).max(initial=0.0) for part, row in chosen.values()]
    return float(max(most, default=0.0)) or 1.0


def _atoms(part: Part, row: int) -> slice:
    return slice(int(part.atom_ptr[row]), int(part.atom_ptr[row + 1]))


def _structure(part: Part, row: int) -> dict[str, Any]:
    atoms, truth = _atoms(part, row), float(part.truth[row])
    return {
        "id": part.ids[row],
        "symbols": [chemical_symbols[z] for z in part.z[atoms]],
        "positions": np.round(part.pos[atoms].astype(float), 4).tolist(),
        "cell": np.round(part.cell[row].astype(float), 4).tolist() if part.pbc[row].any() else None,
        "bonds": _bonds(part.z[atoms], part.pos[atoms]),
        "roles": part.role[atoms].tolist(),
        "true": truth if truth == truth else None,
    }


def _bonds(z: np.ndarray, pos: np.ndarray) -> list[list[int]]:
    """Return pairs of bonded atoms, by roles.py's rule; of a crystal those within the cell."""
    first, second = np.triu_indices(len(z), 1)
    near = bonded(z[first], z[second], np.linalg.norm(pos[first] - pos[second], axis=1))
    return np.stack([first[near], second[near]], axis=1).tolist()


def _of_model(
    explainer: Explainer, part: Part, row: int, limits: dict[str, float], folder: Path, forms: list[str], number: int
) -> dict[str, Any]:
    atoms, predicted = _atoms(part, row), float(part.prediction[row])
    told: dict[str, Any] = {"prediction": predicted, "maps": {}, "limits": limits, "pictures": {}}
    for method in explainer.methods:
        values = part.maps[method][atoms]
        told["maps"][method] = [float(f"{value:.6g}") for value in values]
        drawn = Drawn(
            title=f"{part.ids[row]}: {predicted:.5g} {explainer.unit}, {explainer.label}, {method}",
            z=part.z[atoms],
            pos=part.pos[atoms],
            cell=part.cell[row],
            pbc=part.pbc[row],
            values=values,
            limit=limits[method],
            unit=unit_of(method, explainer.unit, explainer.is_energy),
            signed=method in SIGNED and not explainer.relu,
        )
        name = f"{number:03d}-{re.sub(r'[^A-Za-z0-9._-]', '_', part.ids[row])[:60]}-{explainer.label}-{method}"
        for form in forms:
            file = folder / f"{name}.{form}"
            try:
                write_atomically(file, draw(drawn, form))
            except OSError as error:
                raise WorkError(f"{file}: not written: {error.strerror}") from None
            told["pictures"].setdefault(method, {})[form] = f"{folder.name}/{file.name}"
    return told
