"""Maps on disk: a part in HDF5 a piece of the input and model, and tables in CSV made of all parts."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols

from hpc_kit.explain.explainer import Explained, Explainer, unit_of
from hpc_kit.files import atomic_path, is_of_disk, write_atomically
from hpc_kit.spec.errors import InputError, WorkError


@dataclass
class Part:
    """What a part holds. ids, truth, prediction, std (NaN of one model) [n]; z, pos [A], role [A]; cell [n, 3, 3],
    pbc [n, 3], atom_ptr [n+1]; maps: method -> [A], spread: method -> [A] or empty, both over the ensemble;
    baseline, remainder: name -> [n]. units: method -> unit."""

    ids: list[str]
    truth: np.ndarray
    prediction: np.ndarray
    std: np.ndarray
    atom_ptr: np.ndarray
    z: np.ndarray
    pos: np.ndarray
    role: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    maps: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]
    baseline: dict[str, np.ndarray]
    remainder: dict[str, np.ndarray]


_PLAIN = ("truth", "prediction", "std", "atom_ptr", "z", "pos", "cell", "pbc")
_TABLES = ("maps", "spread", "baseline", "remainder")


def part_of(found: Explained, roles: np.ndarray) -> Part:
    """Return the part that holds `found`, whose atoms (of all its arrays) have these roles."""
    several, atoms = len(found.prediction) > 1, found.atoms
    return Part(
        ids=found.ids,
        truth=found.truth,
        prediction=found.prediction.mean(axis=0),
        std=found.prediction.std(axis=0, ddof=1) if several else np.full(len(found), np.nan),
        atom_ptr=found.atom_ptr,
        z=found.z,
        pos=found.arrays.pos[atoms],
        role=roles[atoms],
        cell=found.arrays.cell[found.index],
        pbc=found.arrays.pbc[found.index],
        maps={k: v.mean(axis=0) for k, v in found.maps.items()},
        spread={k: v.std(axis=0, ddof=1) for k, v in found.maps.items()} if several else {},
        baseline={k: v.mean(axis=0) for k, v in found.baseline.items()},
        remainder={k: v.mean(axis=0) for k, v in found.remainder.items()},
    )


def write_part(path: Path, part: Part, explainer: Explainer) -> None:
    """Write a part, whole or not at all. Raises WorkError."""
    with h5py.File("part", "w", driver="core", backing_store=False) as file:
        of = {"target": explainer.target, "unit": explainer.unit, "model": explainer.label, "relu": explainer.relu}
        for name, value in of.items():
            file.attrs[name] = value
        text = h5py.string_dtype()
        file.create_dataset("ids", data=np.array(part.ids, dtype=object).astype(text))
        file.create_dataset("role", data=part.role.astype("S16"))
        for name in _PLAIN:
            file.create_dataset(name, data=getattr(part, name))
        for table in _TABLES:
            for name, values in getattr(part, table).items():
                made = file.create_dataset(f"{table}/{name}", data=values)
                per_atom = table in ("maps", "spread")
                made.attrs["unit"] = (
                    unit_of(name, explainer.unit, explainer.is_energy) if per_atom else explainer.unit
                )
        file.flush()
        write_whole(path, file.id.get_file_image())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises WorkError."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise WorkError(f"{path}: not written: {error.strerror}") from None


def read_part(path: Path) -> Part:
    """Read a part that write_part wrote."""
    with h5py.File(path) as file:
        tables = {t: {k: v[:] for k, v in file[t].items()} if t in file else {} for t in _TABLES}
        role = file["role"][:].astype("U16")
        return Part(list(file["ids"].asstr()[:]), role=role, **{name: file[name][:] for name in _PLAIN}, **tables)


def write_tables(folder: Path, models: Iterable[tuple[Explainer, list[Path], Any]]) -> list[str]:
    """Write attributions.csv (a row an atom), structures.csv (a row a structure) and roles.csv into `folder`, from
    the parts of each model and its explain.roles.Roles; return their names. Raises InputError or WorkError where
    they cannot be written."""
    models = list(models)
    first = models[0][0]
    units = [f"{name} [{unit_of(name, first.unit, first.is_energy)}]" for name in first.methods]
    heads = {
        "attributions.csv": ["model", "id", "atom", "element", "role", *units],
        "structures.csv": ["model", "id", *(f"{name} [{first.unit}]" for name in _columns(first))],
        "roles.csv": ["model", "method", "kind", "name", *_ROLE],
    }
    rows = {"attributions.csv": _atoms, "structures.csv": _structures, "roles.csv": _roles}
    for name, head in heads.items():
        try:
            with atomic_path(folder / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(head)
                for explainer, parts, roles in models:
                    writer.writerows(rows[name](explainer, parts, roles))
        except OSError as error:
            what = f"{folder / name}: not written: {error.strerror or error}"
            raise (WorkError if is_of_disk(error) else InputError)(what) from None
    return list(heads)


_ROLE = ("atoms", "mean", "sd", "mean_size", "above_mean", "weight")


def _atoms(explainer: Explainer, parts: list[Path], _) -> Iterator[list]:
    symbols = np.array(chemical_symbols)
    for part in map(read_part, parts):
        counts = np.diff(part.atom_ptr)
        ids = np.repeat(np.array(part.ids, dtype=object), counts)
        number = np.arange(len(part.z)) - np.repeat(part.atom_ptr[:-1], counts)
        columns = [ids.tolist(), number.tolist(), symbols[part.z].tolist(), part.role.tolist()]
        columns += [part.maps[name].tolist() for name in explainer.methods]
        yield from ([explainer.label, *row] for row in zip(*columns, strict=True))


def _columns(explainer: Explainer) -> list[str]:
    remainders = [] if explainer.relu else [m for m in explainer.methods if m in ("cam", "grad_cam")]
    baseline = ["shifts", "atom_references", "target_mean"]
    return ["prediction", "std", "true", *baseline, *(f"remainder {m}" for m in remainders)]


def _structures(explainer: Explainer, parts: list[Path], _) -> Iterator[list]:
    for part in map(read_part, parts):
        numbers = [part.prediction, part.std, part.truth]
        numbers += [part.baseline[name] for name in ("shifts", "atom_references", "target_mean")]
        numbers += [part.remainder[m] for m in explainer.methods if m in part.remainder]
        for id, *row in zip(part.ids, *(column.tolist() for column in numbers), strict=True):
            yield [explainer.label, id, *("" if value != value else value for value in row)]


def _roles(explainer: Explainer, _, roles: Any) -> Iterator[list]:
    for method in explainer.methods:
        for row in roles.report(method):
            yield [explainer.label, method, row["kind"], row["name"], *(row[name] for name in _ROLE)]
