"""Predictions on disk, as the ending of the file's name says, and how wrong they are where the truth is known."""

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_kit.files import atomic_path, is_of_disk
from hpc_kit.predict.predictor import FORCE_UNIT, Predicted, Predictor
from hpc_kit.spec.errors import InputError, WorkError, allowed

Write = Callable[[Predicted], None]
UNSEEN = "unseen elements"


@contextlib.contextmanager
def open_output(path: Path, predictor: Predictor, said: str = "") -> Iterator[Write]:
    """Yield what writes pieces of predictions, none of them empty, to `path`, which is there when the block ends well
    and not before.

    said: how the structures came about, where they were not given. Raises InputError where `path` cannot be written,
    WorkError where the disk fails.
    """
    kind = kind_of(path)
    try:
        with atomic_path(path) as temporary, _WRITERS[kind](temporary, predictor, said) as write:
            yield write
    except OSError as error:
        what = f"{path}: not written: {error.strerror or error}"
        raise (WorkError if is_of_disk(error) else InputError)(what) from None


def kind_of(path: Path) -> str:
    """Return the ending of an output's name. Raises InputError where it says nothing."""
    ending = path.suffix.lower().removeprefix(".")
    if ending not in _WRITERS:
        raise InputError(f"{path}: its ending says how predictions are written; {allowed(ending, _WRITERS)}")
    return ending


@contextlib.contextmanager
def _csv(path: Path, predictor: Predictor, said: str) -> Iterator[Write]:
    several, columns = len(predictor.members) > 1, ["id"]
    for name, unit in predictor.units.items():
        columns += [f"{kind} [{unit}]" for kind in (name, *([f"{name} std"] if several else []), f"{name} true")]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*columns, UNSEEN, *(["structure"] if said else [])])

        def write(found: Predicted) -> None:
            each = [found.values, *([found.std] if several else []), found.truth]
            # [n, targets, kinds], so that the kinds of a target stand beside each other
            numbers = np.stack(each, axis=2).reshape(len(found), -1).tolist()
            for id, row, unseen in zip(found.ids, numbers, found.unseen, strict=True):
                cells = ("" if math.isnan(number) else repr(number) for number in row)
                rows.writerow([id, *cells, unseen, *([said] if said else [])])

        yield write


@contextlib.contextmanager
def _json_lines(path: Path, predictor: Predictor, said: str) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(found: Predicted) -> None:
            for i, id in enumerate(found.ids):
                line: dict[str, Any] = {"id": id}
                for t, (name, unit) in enumerate(found.units.items()):
                    numbers = {"value": found.values[i, t], "true": found.truth[i, t]}
                    if found.std is not None:
                        numbers["std"] = found.std[i, t]
                    line[name] = {k: float(v) for k, v in numbers.items() if not math.isnan(v)} | {"unit": unit}
                if found.forces is not None:
                    atoms = slice(*found.atom_ptr[i : i + 2])
                    line["forces"] = {"value": found.forces[atoms].tolist(), "unit": FORCE_UNIT}
                    if found.forces_std is not None:
                        line["forces"]["std"] = found.forces_std[atoms].tolist()
                line |= {UNSEEN: found.unseen[i].split(", ")} if found.unseen[i] else {}
                file.write(json.dumps(line | ({"structure": said} if said else {}), allow_nan=False) + "\n")

        yield write


@contextlib.contextmanager
def _hdf5(path: Path, predictor: Predictor, said: str) -> Iterator[Write]:
    # Made in memory: HDF5 itself, on a disk that is full, cannot be made to let go of the file.
    with h5py.File("predictions", "w", driver="core", backing_store=False) as file:
        file.attrs["structure"] = said or "as given"
        file.attrs["dataset_sha256"] = predictor.dataset_sha256
        ends = [0]

        def add(name: str, values: np.ndarray, unit: str = "") -> None:
            if name not in file:
                made = file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=True)
                if unit:
                    made.attrs["unit"] = unit
                return
            old = len(file[name])
            file[name].resize(old + len(values), axis=0)
            file[name][old:] = values

        def write(found: Predicted) -> None:
            text = h5py.string_dtype()
            add("ids", np.array(found.ids, dtype=object).astype(text))
            add("unseen", np.array(found.unseen, dtype=object).astype(text))
            for t, (name, unit) in enumerate(found.units.items()):
                add(f"predictions/{name}", found.values[:, t], unit)
                add(f"targets/{name}", found.truth[:, t], unit)
                if found.std is not None:
                    add(f"std/{name}", found.std[:, t], unit)
            add("z", found.arrays.z[found.atoms])
            ends.extend((found.atom_ptr[1:] + ends[-1]).tolist())
            if found.forces is not None:
                add("predictions/forces", found.forces, FORCE_UNIT)
                if found.forces_std is not None:
                    add("std/forces", found.forces_std, FORCE_UNIT)

        yield write
        file["atom_ptr"] = np.array(ends, np.int64)
        file.flush()
        path.write_bytes(file.id.get_file_image())


@contextlib.contextmanager
def _extxyz(path: Path, predictor: Predictor, said: str) -> Iterator[Write]:
    import ase.io
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    keys = {name: "energy" if name == predictor.energy else name for name in predictor.units}
    with path.open("w", encoding="utf-8") as file:

        def write(found: Predicted) -> None:
            ptr, ends = found.arrays.atom_ptr, found.atom_ptr
            for i, place in enumerate(found.index):
                atoms = slice(ptr[place], ptr[place + 1])
                one = Atoms(
                    found.arrays.z[atoms],
                    found.arrays.pos[atoms],
                    cell=found.arrays.cell[place],
                    pbc=found.arrays.pbc[place],
                )
                results, info = {}, {"id": found.ids[i]}
                for t, name in enumerate(found.units):
                    value = float(found.values[i, t])
                    (results if name == predictor.energy else info)[keys[name]] = value
                    if found.std is not None:
                        info[f"{name}_std"] = float(found.std[i, t])
                if found.forces is not None:
                    results["forces"] = found.forces[ends[i] : ends[i + 1]]
                if found.unseen[i]:
                    info["unseen_elements"] = found.unseen[i]
                one.info = info | ({"structure": said} if said else {})
                if results:
                    one.calc = SinglePointCalculator(one, **results)
                ase.io.write(file, one, format="extxyz")

        yield write


_WRITERS = {"csv": _csv, "jsonl": _json_lines, "h5": _hdf5, "extxyz": _extxyz}


class Errors:
    """How wrong predictions are where the truth is known. `sums`: target -> count, |e|, e^2, mean of the truth,
    squares around that mean; those of parts can be merged."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, found: Predicted) -> None:
        for t, name in enumerate(found.units):
            self._add(name, found.values[:, t], found.truth[:, t])
        if found.forces is not None and found.true_forces is not None:
            self._add("forces", found.forces.ravel(), found.true_forces.ravel())

    def _add(self, name: str, predicted: np.ndarray, truth: np.ndarray) -> None:
        known = np.isfinite(truth)
        if known.any():
            error, truth = (predicted - truth)[known], truth[known].astype(float)
            start = truth.mean()
            spread = np.square(truth - start).sum()
            self._merge(name, [known.sum(), np.abs(error).sum(), np.square(error).sum(), start, spread])

    def _merge(self, name: str, other: list[float]) -> None:
        # The squares around the common mean: Chan, Golub & LeVeque 1983, doi 10.1080/00031305.1983.10483115.
        n, absolute, square, mean, spread = self.sums.get(name, [0, 0.0, 0.0, 0.0, 0.0])
        m, *more, theirs, around = (float(value) for value in other)
        total, step = n + m, theirs - mean
        spread += around + step * step * n * m / total
        self.sums[name] = [total, absolute + more[0], square + more[1], mean + step * m / total, spread]

    def merge(self, sums: dict[str, list[float]]) -> None:
        for name, other in sums.items():
            self._merge(name, other)

    def report(self, units: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Return target -> unit, n, mae, rmse, r2 of those with a known truth; units: of the targets."""
        return {
            name: {
                "unit": units.get(name, FORCE_UNIT),
                "n": int(n),
                "mae": absolute / n,
                "rmse": math.sqrt(square / n),
                "r2": 1 - square / spread if spread else None,
            }
            for name, (n, absolute, square, _, spread) in self.sums.items()
        }
