"""Your own structures: a folder, a list of files, or one file, in any format that ASE reads.

Targets come from a CSV file, or from what the structures carry: the energy of ASE's calculator, scalars in
`atoms.info`. Forces are taken where a file has them. ASE's units are taken as they are: eV, Angstrom, eV/Angstrom.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.data.sources.frames import carried, energy_and_forces
from hpc_kit.data.sources.pieces import files_of, pieces_of, read_piece, stem_of
from hpc_kit.data.sources.tables import Table, number, take
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.spec.errors import InputError, allowed

OPTIONS = {
    "csv": "a table of targets; default: the targets that the structures carry",
    "id_column": "its column of ids, with or without the file's suffix; default: the first",
    "columns": "the targets, such as energy,gap; default: all",
    "units": "their units, such as energy:eV,gap:meV",
    "header": "false for a table without names in its first line, such as ALIGNN's id_prop.csv",
    "energy": "the name under which the structures carry their energy, such as REF_energy; default: energy",
    "forces": "the name of their column of forces, such as REF_forces; default: forces",
    "forces_only": "true leaves out the structures that have no forces",
    "pattern": "which files of a folder to read, such as *.cif; default: all but tables and texts",
    "follow_links": archives.OPTIONS["follow_links"],
}
_LOOKED_AT = 100  # structures, before a folder without a table is taken for unreadable
_LISTENED_TO = 20  # readable structures, whose numbers are the targets where no table names them


class Files:
    """Structures from files. A raw record is (kind, content, row of the table); see pieces.py for the kinds."""

    name = "files"
    splits: dict[str, dict[str, list[str]]] = {}

    def __init__(
        self, path: Path, options: dict[str, str], table: Table | None, targets: dict, origin: dict[str, Any]
    ):
        self.path, self.table, self.targets, self.origin = path, table, targets, origin
        self.pattern, self.energy, self.forces = (options.get(name) for name in ("pattern", "energy", "forces"))
        self.forces_only, self.follow = opt.yes(options, "forces_only"), opt.yes(options, "follow_links")

    def records(self) -> Iterator[tuple[str, Any]]:
        """Yield the structures, files in sorted order or the list's; rows of the table without one come last."""
        rows = self.table.rows() if self.table else {}
        for file, name, fault in files_of(self.path, self.pattern, self.follow):
            stem = stem_of(name)
            for id, kind, content in pieces_of(file, stem, fault):
                names = (id, name, stem.rpartition("/")[2], name.rpartition("/")[2]) if id == stem else (id,)
                yield id, (kind, content, take(rows, *names)[1])
        for id, row in rows.items():
            yield id, ("bad", f"no structure for this row of {self.table.path.name}", row)

    def convert(self, id: str, raw: Any) -> Structure:
        kind, content, row = raw
        if kind == "bad":
            raise RejectedError(content)
        atoms = read_piece(kind, content)
        if self.table is not None:
            targets = self.table.values(row)
        else:
            numbers = _numbers(atoms, self.energy)
            targets = {name: number(numbers.get(name), name) for name in self.targets}
        forces = energy_and_forces(atoms, self.energy, self.forces)[1]
        if forces is None and self.forces_only:
            raise RejectedError("no forces, and forces_only=true leaves such structures out")
        return replace(from_ase(id, atoms, targets, forces), left_out=self._left_out(atoms))

    def _left_out(self, atoms: Atoms) -> tuple[str, ...]:
        """Return what the structure carries and the set does not, each with what it belongs to."""
        per_frame, per_atom = carried(atoms)
        taken = set() if self.table else {*self.targets, self.energy} - ({"energy"} if self.energy else set())
        kept = [f"{name} (per frame)" for name in per_frame if name not in taken]
        return (*kept, *(f"{name} (per atom)" for name in per_atom if name != (self.forces or "forces")))


def open_source(path: Path | None, options: dict[str, str]) -> Files:
    """Open the structures at `path` and the table of option `csv`."""
    path = opt.existing(path, "files", "a folder of structures, a list of files (.txt), or one file that ASE reads")
    if archives.is_archive(path):
        raise InputError(
            f"{path}: is an archive: unpack it and name the folder (source hmof reads archives of CIF files)"
        )
    folder = path if path.is_dir() else path.parent
    file = opt.file(options, "csv", folder)
    columns = opt.names(options, "columns")
    bare = Files(path, options, None, {}, {})
    if next(bare.records(), None) is None:
        raise InputError(f"{path}: holds no structures" + (f" that match {bare.pattern}" if bare.pattern else ""))
    if not file or {"energy", "forces", "forces_only"} & set(options):
        numbers, of_atoms = _look(bare)
        _check_names(path, options, numbers, of_atoms)
    if file:
        header = opt.choice(options, "header", ["true", "false"], "true") == "true"
        table = Table(file, options.get("id_column"), columns, header)
        names = table.columns
    else:
        if alone := [name for name in ("id_column", "header") if name in options]:
            raise InputError(f"option {alone[0]} describes a table: give csv=FILE as well")
        for name in columns:
            if name not in numbers:
                hint = allowed(name, numbers) if numbers else "they carry none; give a table with csv=FILE"
                raise InputError(f"{path}: its first structures carry no number {name!r}; {hint}")
        table, names = None, columns or numbers
    units = _units(options, names)
    targets = {
        name: Target(unit=units.get(name, ""), description=f"{name} of {(file or path).name}") for name in names
    }
    origin = {"dataset": "files", "from": path.name, **{k: v for k, v in options.items() if k != "csv"}}
    return Files(path, options, table, targets, origin | ({"csv": file.name} if file else {}))


def _numbers(atoms: Atoms, energy: str | None) -> dict[str, Any]:
    """Return the numbers and texts that a structure carries, its energy under that name."""
    per_frame = carried(atoms)[0]
    other = (energy, "energy") if energy else ()
    found = {k: v for k, v in per_frame.items() if isinstance(v, (int, float, str, np.number)) and k not in other}
    value = energy_and_forces(atoms, energy)[0]
    return found if value is None else found | {"energy": value}


def _look(source: Files) -> tuple[list[str], list[str]]:
    """Return the names of the numbers, and of the columns of atoms, that the first structures carry."""
    numbers: dict[str, None] = {}
    columns: dict[str, None] = {}
    seen, reason = 0, None
    for _, (kind, content, _) in itertools.islice(source.records(), _LOOKED_AT):
        try:
            atoms = read_piece(kind, content)
        except RejectedError as error:
            reason = error
            continue
        found = _numbers(atoms, source.energy)
        numbers |= dict.fromkeys(name for name, v in found.items() if not isinstance(v, str) and "/" not in name)
        columns |= dict.fromkeys(carried(atoms)[1])
        seen += 1
        if seen == _LISTENED_TO:
            break
    if not seen:
        raise InputError(f"{source.path}: none of its first {_LOOKED_AT} structures can be read: {reason}")
    return list(numbers), list(columns)


def _check_names(path: Path, options: dict[str, str], numbers: list[str], columns: list[str]) -> None:
    """Raise InputError for options that name what no structure carries."""
    if "energy" in options and "energy" not in numbers:
        hint = allowed(options["energy"], numbers) if numbers else "they carry none"
        raise InputError(
            f"{path}: option energy={options['energy']}: its first structures carry no such number; {hint}"
        )
    forces = options.get("forces", "forces")
    if ("forces" in options or options.get("forces_only") == "true") and forces not in columns:
        hint = (
            f"they carry {', '.join(columns)}: name one with forces=" if columns else "they carry no columns of atoms"
        )
        raise InputError(f"{path}: its first structures have no column {forces!r} of forces; {hint}")


def _units(options: dict[str, str], names: list[str]) -> dict[str, str]:
    units = {} if "csv" in options else {"energy": "eV"}
    for pair in opt.names(options, "units"):
        name, colon, unit = pair.partition(":")
        if not colon or name not in names:
            raise InputError(f"option units={options['units']}: {pair!r} is not target:unit; {allowed(name, names)}")
        units[name] = unit
    return units
