"""Multi-frame xyz files, plain or extended: cut into the text of one frame after another, and parsed.

Cutting is 20 times cheaper than parsing, so one process cuts and many parse.
"""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from hpc_kit.data.sources.atoms import with_element_names
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.errors import InputError

_PER_ATOM = ("forces", "charges", "magmoms", "energies", "stresses")  # among the results of ASE's calculators


def text_frames(path: Path) -> Iterator[str]:
    """Yield the text of each frame. Raises InputError where the file is no xyz file or ends within a frame."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for index in itertools.count():
            first = next((line for line in file if line.strip()), None)
            if first is None:
                return
            if not first.strip().isdecimal():
                raise InputError(f"{path}: frame {index} starts with {first.strip()[:40]!r}, not its number of atoms")
            lines = list(itertools.islice(file, int(first) + 1))
            if len(lines) < int(first) + 1:
                raise InputError(f"{path}: ends within frame {index}")
            yield first + "".join(lines)


def parse_frame(text: str) -> Atoms:
    """Parse one frame. Raises RejectedError."""
    try:
        return with_element_names(lambda: ase.io.read(io.StringIO(text), format="extxyz"))
    except RejectedError:
        raise
    except Exception as error:  # ASE's parser raises what comes: ValueError, KeyError, XYZError
        raise RejectedError(f"not a frame that ASE reads: {type(error).__name__}: {error}") from None


def energy_and_forces(
    atoms: Atoms, energy: str | None = None, forces: str | None = None
) -> tuple[object, np.ndarray | None]:
    """Return what a file says of a structure's energy and forces [n, 3], each None where it is silent.

    `energy` and `forces` are the names under which it says so, where those are others.
    """
    per_frame, per_atom = carried(atoms)
    if energy is None:
        energy = next((name for name in ("energy", *per_frame) if name in per_frame and name.lower() == "energy"), "")
    found = per_atom.get(forces or "forces")
    return per_frame.get(energy), None if found is None else np.asarray(found, dtype=float)


def carried(atoms: Atoms) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return all that a file says of a structure beside its elements, positions and cell, by name: of the frame, and
    of each atom. What ASE adds by itself is left out."""
    row = {key: atoms.info.get(key) for key in ("key_value_pairs", "data")}  # of a database
    per_frame = {key: value for key, value in atoms.info.items() if key not in (*row, "unique_id")}
    for found in (*row.values(), atoms.calc.results if atoms.calc else {}):
        per_frame |= found if isinstance(found, dict) else {}
    per_atom = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    for name in list(per_frame):
        in_data = isinstance(row["data"], dict) and name in row["data"]
        if name in _PER_ATOM or (in_data and np.shape(per_frame[name]) == (len(atoms), 3)):
            per_atom[name] = per_frame.pop(name)
    words = (bool, np.bool_, type(None))  # the words of a plain comment line are flags to ASE
    return {name: value for name, value in per_frame.items() if not isinstance(value, words)}, per_atom
