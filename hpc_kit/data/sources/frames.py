"""Multi-frame xyz files, plain or extended: cut into the text of one frame after another, and parsed.

Cutting is 20 times cheaper than parsing, so one process cuts and many parse.
"""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from hpc_kit.data.sources.atoms import with_element_names
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.errors import InputError


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


def energy_and_forces(atoms: Atoms) -> tuple[object, np.ndarray | None]:
    """Return what a file says of a structure's energy and forces [n, 3], each None where it is silent."""
    results = atoms.calc.results if atoms.calc else {}
    named = {key.lower(): value for key, value in atoms.info.items()}
    return results.get("energy", named.get("energy")), results.get("forces", atoms.arrays.get("forces"))
