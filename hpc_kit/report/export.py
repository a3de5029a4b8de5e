"""Writes a run's tables as CSV files."""

import csv
from collections.abc import Iterable
from pathlib import Path

from hpc_kit.files import atomic_path, make_folder
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.rows import TABLES, Row


def write_tables(run: RunDir, folder: Path, force: bool) -> dict[str, int]:
    """Write tasks.csv, epochs.csv, metrics.csv, predictions.csv and forces.csv into `folder`; a table without rows is
    left out. Return how many rows each has.

    Columns are those of all rows, in the order in which they come up; what a row lacks is empty. Raises InputError
    where a file is there already and `force` is not given, or where `folder` cannot be written.
    """
    plan = run.read_plan()
    make_folder(folder, [folder / f"{name}.csv" for name in TABLES], force)
    counts = {}
    for name, rows_of in TABLES.items():
        path, columns = folder / f"{name}.csv", {}
        for row in rows_of(run, plan):
            columns |= dict.fromkeys(row)
        path.unlink(missing_ok=True)
        if columns:
            counts[name] = _write_csv(path, list(columns), rows_of(run, plan))
    return counts


def _write_csv(path: Path, columns: list[str], rows: Iterable[Row]) -> int:
    """Write a table and return how many rows it has."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow(row)
            count += 1
    return count
