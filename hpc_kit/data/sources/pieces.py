"""Files of structures, cut into pieces that can be handed to another process and read there."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms

from hpc_kit.data.sources.archives import link_fault
from hpc_kit.data.sources.atoms import with_element_names
from hpc_kit.data.sources.cif import FULL, read_cif
from hpc_kit.data.sources.frames import parse_frame, text_frames
from hpc_kit.data.structures import RejectedError
from hpc_kit.files import is_of_disk
from hpc_kit.spec.errors import InputError

# An id is the file's path without one of these. Other endings belong to the name: POSCAR.mp-149, acs.cgd.6b01265.
SUFFIXES = tuple(".cif .xyz .extxyz .vasp .poscar .db .traj .pdb .sdf .mol .xsf .gen .json".split())
MANY = (".xyz", ".extxyz", ".db", ".traj")
LISTS = (".txt", ".list", ".lst")
NO_STRUCTURES = (".csv", ".md", ".log", ".yaml", ".yml", ".zip", *LISTS)


def stem_of(name: str) -> str:
    """Return a file's name without the suffix of its format."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def files_of(path: Path, pattern: str | None, follow: bool = False) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, its name within the folder or the list, why it is not read, "" where it is).

    Hidden files are left out. Not read, unless `follow` allows it, are links that lead out of the folder.
    """
    if path.is_dir():
        for file in sorted(path.rglob(pattern or "*")):
            name = file.relative_to(path).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            fault = "" if follow and file.is_file() else link_fault(file, path)
            if (fault or file.is_file()) and not hidden and (pattern or file.suffix.lower() not in NO_STRUCTURES):
                yield file, name, fault
    elif path.suffix.lower() in LISTS:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            if name := line.strip():
                file = path.parent / name
                yield file, file.name if Path(name).is_absolute() else name, ""
    else:
        yield path, path.name, ""


def pieces_of(file: Path, stem: str, fault: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (id, kind, content) of the structures in one file.

    Kinds: "frame", the text of an xyz frame; "atoms", an ase.Atoms; "file", a path that a worker reads; "bad", why
    there is nothing, or nothing more; with `fault` that is all there is. The only frame of an xyz file bears the
    file's name, one of many `name_000000`.
    """
    if fault:
        yield stem, "bad", fault
    elif not file.is_file():
        yield stem, "bad", "the list names this file, and it does not exist"
    elif file.suffix.lower() not in MANY:
        yield stem, "file", file
    else:
        try:
            yield from _many(file, stem)
        except Exception as error:  # ASE's readers raise what comes
            if isinstance(error, OSError) and is_of_disk(error):
                raise
            why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            yield stem, "bad", f"cannot be read to its end: {why}"


def _many(file: Path, stem: str) -> Iterator[tuple[str, str, Any]]:
    if file.suffix.lower() == ".db":
        for row in ase.db.connect(file).select():
            yield f"{stem}_{row.id:06d}", "atoms", row.toatoms(add_additional_information=True)
    elif file.suffix.lower() == ".traj":
        for index, atoms in enumerate(ase.io.iread(file)):
            yield f"{stem}_{index:06d}", "atoms", atoms
    else:
        frames = text_frames(file)
        start = list(itertools.islice(frames, 2))
        if not start:
            raise InputError("the file is empty")
        for index, text in enumerate(itertools.chain(start, frames)):
            yield stem if len(start) == 1 else f"{stem}_{index:06d}", "frame", text


def read_piece(kind: str, content: Any) -> Atoms:
    """Read one piece. Raises RejectedError."""
    if kind == "bad":
        raise RejectedError(content)
    if kind == "atoms":
        return content
    if kind == "frame":
        return parse_frame(content)
    if content.suffix.lower() == ".cif":
        return read_cif(content.read_bytes())
    try:
        found = with_element_names(lambda: ase.io.read(content, index=":"))
    except RejectedError:
        raise
    except Exception as error:  # ASE's readers raise what comes
        raise RejectedError(f"not a file that ASE reads: {type(error).__name__}: {error}") from None
    if len(found) != 1:
        raise RejectedError(f"{len(found)} structures in one file; only .xyz, .extxyz, .db and .traj may hold many")
    occupancy = np.atleast_1d(found[0].arrays.get("occupancy", 1.0)).astype(
        float
    )  # of PDB; some programs write 0 for all
    if ((occupancy > 0) & (occupancy < FULL)).any():
        raise RejectedError(f"partial occupancy: an atom is occupied to {occupancy[occupancy > 0].min():g}")
    return found[0]
