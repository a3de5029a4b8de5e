"""A run as pandas DataFrames, for notebooks: `import hpc_kit; hpc_kit.read_run("runs/x").epochs()`."""

from pathlib import Path
from typing import Any

from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.rows import TABLES
from hpc_kit.spec.errors import InputError


class Run:
    """A run directory whose tables are DataFrames; each row begins with the task's id, the values of the job's grid
    that it has, and its seed. Columns are those of `hpc_kit export` (docs/tables.md)."""

    def __init__(self, path: str | Path):
        self.directory = RunDir(Path(path))
        self.plan = self.directory.read_plan()

    def tasks(self) -> Any:
        """Return a row a task: its state, and how far it has come."""
        return self._frame("tasks")

    def epochs(self) -> Any:
        """Return a row an epoch of each task."""
        return self._frame("epochs")

    def metrics(self) -> Any:
        """Return a row a target of each finished task: its test errors, in `unit`."""
        return self._frame("metrics")

    def predictions(self) -> Any:
        """Return a row a structure of the test part and target of each finished task."""
        return self._frame("predictions")

    def forces(self) -> Any:
        """Return a row an atom of the test part of each finished task that predicts forces, in eV/Angstrom."""
        return self._frame("forces")

    def _frame(self, table: str) -> Any:
        try:
            import pandas
        except ModuleNotFoundError:
            raise InputError("pandas is not installed: pip install 'hpc-kit[tables]'") from None
        return pandas.DataFrame(TABLES[table](self.directory, self.plan))


def read_run(path: str | Path) -> Run:
    """Open a run directory. Raises InputError where it is none."""
    return Run(path)
