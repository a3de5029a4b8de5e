"""Published studies: tables that ship with the package or a user's own, and what their printed fronts have to say.

A table is CSV. Lines that begin with # say where it is from, and may say "normalised to: 4,4" and "half of the last
digit: 0.005". Columns: `study`; the axes, keys of a job file as model.gcn_layers; the measures, such as test_mae.
`printed_front`, where there is one, counts the members of the front that was printed with the table.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpc_kit.bench import pareto
from hpc_kit.bench.measures import Measure
from hpc_kit.bench.studies import Cell, Study, costs, find_cell, label, normalised
from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.shipped import user_path

FOLDER = Path(__file__).resolve().parent / "published"
HALF = "half of the last digit"
_SAID = re.compile(rf"^(normalised to|{HALF}): *(.+)$")
WORDS = ("property", "unit")  # columns of text


@dataclass(frozen=True)
class Table:
    """A published table: what it says of itself, and its rows, column -> text."""

    path: Path
    notes: tuple[str, ...]
    said: dict[str, str]
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if "." in name)


def shipped() -> dict[str, Path]:
    """Return the published tables that ship with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.csv"))}


def read_published(name: str) -> Table:
    """Read a published table: one that ships, by name, or a file. Raises InputError."""
    path = shipped().get(name) or user_path(name)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        names = allowed(name, shipped())
        raise InputError(
            f"{path}: {reason}; --published takes a CSV file or the name of a table that ships; {names}"
        ) from None
    notes = tuple(line.lstrip("# ").rstrip() for line in lines if line.startswith("#"))
    said = dict(found.groups() for note in notes if (found := _SAID.match(note)))
    body = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    rows = list(csv.reader(line for _, line in body))
    if not rows or rows[0][:1] != ["study"] or len(set(rows[0])) != len(rows[0]) or len(rows) < 2:
        raise InputError(f"{path}: must hold a line of column names that begins with 'study', and rows below it")
    columns = tuple(rows[0])
    for (number, _), row in zip(body[1:], rows[1:], strict=True):
        if len(row) != len(columns):
            raise InputError(f"{path}:{number}: has {len(row)} values for {len(columns)} columns")
        for column, text in zip(columns[1:], row[1:], strict=True):
            if "." not in column and column not in WORDS and text and not _is_number(text):
                raise InputError(f"{path}:{number}: {column}: {text!r} must be a number of zero or more, or empty")
    table = Table(path, notes, said, columns, tuple(dict(zip(columns, row, strict=True)) for row in rows[1:]))
    if not table.axes:
        raise InputError(f"{path}: has no column for an axis: a key of a job file, such as model.gcn_layers")
    if HALF in said and not _is_number(said[HALF]):
        raise InputError(f"{path}: {HALF}: {said[HALF]!r} must be a number of zero or more")
    cells = set()
    for (number, _), row in zip(body[1:], table.rows, strict=True):
        place = tuple(row[name] for name in ("study", *table.axes))
        if place in cells:
            raise InputError(f"{path}:{number}: the cell {', '.join(place)} is there already")
        cells.add(place)
    return table


def published_studies(table: Table, axes: tuple[str, ...], measures: tuple[Measure, ...]) -> list[Study]:
    """Return the studies of a table that have all of `axes` and `measures`, in this order of both.

    Raises InputError where the axes are others or a measure is not in the table.
    """
    if sorted(table.axes) != sorted(axes):
        raise InputError(f"{table.path}: is a study over {', '.join(table.axes)}, not over {', '.join(axes)}")
    for measure in measures:
        if measure.key not in table.columns:
            known = [name for name in table.columns[1:] if name not in (*table.axes, *WORDS, "printed_front")]
            raise InputError(f"{table.path}: does not hold {measure.key!r}; {allowed(measure.key, known)}")
    half = float(table.said[HALF]) if HALF in table.said else None
    studies = []
    for name in dict.fromkeys(row["study"] for row in table.rows):
        rows = [row for row in table.rows if row["study"] == name]
        cells, front = {}, {}
        for row in rows:
            place = tuple(row[axis] for axis in axes)
            texts = [row[measure.key] for measure in measures]
            empty = [m.name for m, text in zip(measures, texts, strict=True) if not text]
            values = np.empty((0, len(measures))) if empty else np.array([[float(text) for text in texts]])
            cells[place] = Cell(values, tuple(f"no {what} is published" for what in empty[:1]))
            if row.get("printed_front"):
                front[float(row["printed_front"])] = place
        printed = tuple(front[order] for order in sorted(front))
        study = Study(name, axes, measures, cells, half=half, printed_front=printed)
        if "normalised to" in table.said:
            study = normalised(study, find_cell(study, _in_order(table, axes), f"{table.path}: normalised to"))
        studies.append(study)
    return studies


def discrepancy(study: Study) -> list[str]:
    """Return, a sentence a cell, where a printed front and the front by the rule of pareto.py differ, and why."""
    points = costs(replace(study, over=None))  # as printed, which is what was rounded
    front, printed = pareto.front(points), study.printed_front
    certain, possible = pareto.rounded_fronts(points, study.half or 0.0)
    said = []
    for place in (place for place in printed if place not in front):
        others = pareto.dominators(points, place)
        by = ", ".join(f"{label(other)} {_numbers(points[other])}" for other in others[:3])
        may = "values that round to these may put it in the front" if place in possible else "whatever was rounded"
        said.append(f"{label(place)} {_numbers(points[place])} is printed, and {by} dominates it; {may}")
    for place in (place for place in front if place not in printed):
        sure = "whatever was rounded, nothing dominates it" if place in certain else "it may be one by rounding alone"
        said.append(f"{label(place)} {_numbers(points[place])} is in the front and not printed; {sure}")
    return said


def _in_order(table: Table, axes: tuple[str, ...]) -> str:
    values = dict(zip(table.axes, table.said["normalised to"].split(","), strict=False))
    return ",".join(values.get(axis, "") for axis in axes)


def _numbers(values: tuple[float, ...]) -> str:
    return f"at ({', '.join(f'{abs(value):.4g}' for value in values)})"


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False
