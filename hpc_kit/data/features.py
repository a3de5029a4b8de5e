"""Vectors that describe the elements, as CGCNN gives them to its atoms.

Not for: learned embeddings, which belong to the models.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder

ELEMENTS = len(chemical_symbols)  # 119: row 0 belongs to no element
_NUMBERS = {str(z) for z in range(1, ELEMENTS)}


def element_table(path: Path | None = None) -> np.ndarray:
    """Return [119, F] float32: row Z describes the element Z; a row of NaN, one that the table does not describe.

    Without `path` the table that ships with the package: F = 92, hydrogen to fermium, one-hot bins of group, period,
    electronegativity, covalent radius, valence electrons, first ionisation energy, electron affinity, block and
    atomic volume (Xie & Grossman 2018, doi 10.1103/PhysRevLett.120.145301, supplemental table S2); a property without
    a value, or outside the bins, sets none. `path` names another in the format of CGCNN's atom_init.json: an object
    of atomic number -> list of F numbers. Raises InputError where it is missing or malformed.
    """
    path = shipped_folder("embedded") / "elements.json" if path is None else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: must be an object of atomic number -> list of numbers")
    table = None
    for key, vector in content.items():
        if key not in _NUMBERS:
            raise InputError(f"{path}: key {key!r}: must be an atomic number from 1 to {ELEMENTS - 1}")
        row = _row(path, key, vector)
        if table is None:
            table = np.full((ELEMENTS, len(row)), np.nan, dtype=np.float32)
        if len(row) != table.shape[1]:
            raise InputError(f"{path}: key {key!r}: {len(row)} numbers where others have {table.shape[1]}")
        table[int(key)] = row
    return table


def check_elements(table: np.ndarray, elements: Iterable[int]) -> None:
    """Raise InputError naming those of `elements` (atomic numbers) that `table` does not describe."""
    missing = [z for z in sorted(set(elements)) if not 0 < z < len(table) or np.isnan(table[z]).any()]
    if missing:
        names = ", ".join(f"{chemical_symbols[z]} ({z})" if 0 < z < ELEMENTS else str(z) for z in missing)
        raise InputError(f"no element features for {names}; give a table that describes them")


def _row(path: Path, key: str, vector: object) -> np.ndarray:
    numbers = isinstance(vector, list) and all(type(x) in (int, float) for x in vector)
    try:
        with np.errstate(over="ignore"):
            row = np.array(vector, dtype=np.float32) if numbers else np.empty(0)
    except OverflowError:  # a whole number beyond any float
        row = np.empty(0)
    if not len(row) or not np.isfinite(row).all():
        raise InputError(f"{path}: key {key!r}: must be a list of finite numbers")
    return row


def count_elements(z: np.ndarray, atom_ptr: np.ndarray) -> np.ndarray:
    """Return [G, 119] int32: how many atoms of each element a graph has. z [N] atomic numbers, atom_ptr [G+1]."""
    graphs = len(atom_ptr) - 1
    graph_of_atom = np.repeat(np.arange(graphs), np.diff(atom_ptr))
    flat = np.bincount(graph_of_atom * ELEMENTS + z, minlength=graphs * ELEMENTS)
    return flat.reshape(graphs, ELEMENTS).astype(np.int32)
