"""CSV files of targets: which row belongs to which structure, and what its cells say."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.errors import InputError, allowed

MISSING = {"", "na", "n/a", "nan", "none", "null"}


class Table:
    """The target columns of a CSV file. Only names are kept; `rows` reads the file.

    The separator is a comma, or the semicolon or tab that the first line has instead. `header=False` is for files
    without a line of names (ALIGNN's and CGCNN's id_prop.csv): the id is first and `columns` name the others.
    Raises InputError for a missing file, id column or target column, for column names that are no names or that
    stand twice, and for a target without a value in any row.
    """

    def __init__(self, path: Path, id_column: str | None, columns: list[str], header: bool = True):
        self.path, self.header = path, header
        lines = self._lines()
        first = next(lines, None)
        if not first:
            raise InputError(f"{path}: empty; it must hold ids and targets")
        if header:
            self._read_header(first, next(lines, []), id_column, columns)
        else:
            if id_column or not 1 <= len(columns) < len(first):
                raise InputError(
                    f"{path}: without a header the id is the first of {len(first)} columns; name those after it"
                    " with columns=a,b and leave id_column out"
                )
            self.columns, self.id_index, self.indices = columns, 0, list(range(1, len(columns) + 1))
        self._refuse_empty()

    def _read_header(self, first: list[str], second: list[str], id_column: str | None, columns: list[str]) -> None:
        names = [cell.strip() for cell in first]
        if any(_is_number(cell) for cell in names):
            raise InputError(f"{self.path}: its first line holds numbers, no names: say header=false")
        for name in [id_column, *columns]:
            if name is not None and name not in names:
                raise InputError(f"{self.path}: no column {name!r}; {allowed(name, filter(None, names))}")
        self.id_index = names.index(id_column) if id_column else 0
        others = [i for i, name in enumerate(names) if name and i != self.id_index]
        self.columns = columns or [names[i] for i in others]
        for name in [names[self.id_index], *self.columns]:
            if name and names.count(name) > 1:
                raise InputError(f"{self.path}: {names.count(name)} columns are called {name!r}: rename all but one")
        self.indices = [names.index(name) for name in self.columns]
        if not self.columns:
            raise InputError(f"{self.path}: no column of targets beside {names[self.id_index]!r}")
        if not columns:
            numeric = [names[i] for i in others if i >= len(second) or _is_value(second[i])]
            if numeric != self.columns:
                text = next(name for name in self.columns if name not in numeric)
                raise InputError(
                    f"{self.path}: column {text!r} holds text; name the targets, such as {','.join(numeric) or 'a,b'}"
                )
        if bad := next((name for name in self.columns if "/" in name), None):
            raise InputError(f"{self.path}: column {bad!r}: rename it, a target's name has no '/'")

    def _refuse_empty(self) -> None:
        """Refuse a target column in which every cell is missing."""
        empty = set(self.columns)
        for row in self.rows().values():
            empty -= {name for name, cell in zip(self.columns, row, strict=False) if cell.lower() not in MISSING}
            if not empty:
                return
        name = next(name for name in self.columns if name in empty)
        raise InputError(f"{self.path}: column {name!r} holds no value in any row; leave it out with columns=")

    def rows(self) -> dict[str, list[str]]:
        """Return id -> cells of the target columns. Two rows of one id become [], which `values` rejects."""
        lines = self._lines()
        if self.header:
            next(lines)
        found: dict[str, list[str]] = {}
        for line in lines:
            if not any(cell.strip() for cell in line):
                continue
            cells = [line[i].strip() if i < len(line) else "" for i in (self.id_index, *self.indices)]
            found[cells[0]] = [] if cells[0] in found else cells[1:]
        return found

    def values(self, row: list[str] | None) -> dict[str, float]:
        """Return target -> value of one row of `rows`; missing = NaN. Raises RejectedError."""
        if row is None:
            raise RejectedError(f"no row in {self.path.name}")
        if not row:
            raise RejectedError(f"more than one row in {self.path.name}")
        return {column: number(cell, column) for column, cell in zip(self.columns, row, strict=True)}

    def _lines(self) -> Iterator[list[str]]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                head = file.readline()
                file.seek(0)
                separator = next((s for s in ",;\t" if s in head), ",")
                yield from csv.reader(file, delimiter=separator)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path}: cannot be read as a CSV file in UTF-8: {error}") from None


def take(rows: dict[str, list[str]], *names: str) -> tuple[str, list[str] | None]:
    """Take the row of the first of `names` that has one out of `rows`; return that structure's first name and row."""
    for name in names:
        if name in rows:
            return names[0], rows.pop(name)
    return names[0], None


def number(value: object, name: str) -> float:
    """Return a target's value; NaN where it is missing. Raises RejectedError for text and for infinity."""
    text = str(value).strip()
    if value is None or text.lower() in MISSING:
        return math.nan
    if isinstance(value, (bool, list, dict)) or not _is_number(text):
        raise RejectedError(f"target {name!r}: {text[:40]!r} is not a number")
    if math.isinf(float(text)):
        raise RejectedError(f"target {name!r}: {text} is not finite")
    return float(text)


def _is_value(text: str) -> bool:
    return text.strip().lower() in MISSING or _is_number(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
