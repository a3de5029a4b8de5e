"""Your own structures: a folder, a list of files, or one file, in any format that ASE reads.

Targets come from a CSV file, or from what the structures carry: the energy of ASE's calculator, scalars in
`atoms.info`. Forces are taken where a file has them. ASE's units are taken as they are: eV, Angstrom, eV/Angstrom.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.data.sources.frames import energy_and_forces
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
    "pattern": "which files of a folder to read, such as *.cif; default: all but tables and texts",
    "follow_links": archives.OPTIONS["follow_links"],
}
_LOOKED_AT = 100  # structures, before a folder without a table is taken for unreadable


class Files:
    """Structures from files. A raw record is (kind, content, row of the table); see pieces.py for the kinds."""

    name = "files"
    splits: dict[str, dict[str, list[str]]] = {}

    def __init__(
        self,
        path: Path,
        pattern: str | None,
        table: Table | None,
        targets: dict,
        origin: dict[str, Any],
        follow: bool = False,
    ):
        self.path, self.pattern, self.table, self.targets, self.origin = path, pattern, table, targets, origin
        self.follow = follow

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
            carried = _carried(atoms)
            targets = {name: number(carried.get(name), name) for name in self.targets}
        return from_ase(id, atoms, targets, energy_and_forces(atoms)[1])


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
    pattern, follow = options.get("pattern"), opt.yes(options, "follow_links")
    bare = Files(path, pattern, None, {}, {}, follow)
    if next(bare.records(), None) is None:
        raise InputError(f"{path}: holds no structures" + (f" that match {pattern}" if pattern else ""))
    if file:
        header = opt.choice(options, "header", ["true", "false"], "true") == "true"
        table = Table(file, options.get("id_column"), columns, header)
        names = table.columns
    else:
        if alone := [name for name in ("id_column", "header") if name in options]:
            raise InputError(f"option {alone[0]} describes a table: give csv=FILE as well")
        table, names = None, _names_carried(bare, columns)
    units = _units(options, names)
    targets = {
        name: Target(unit=units.get(name, ""), description=f"{name} of {(file or path).name}") for name in names
    }
    origin = {"dataset": "files", "from": path.name, **{k: v for k, v in options.items() if k != "csv"}}
    return Files(path, pattern, table, targets, origin | ({"csv": file.name} if file else {}), follow)


def _carried(atoms: Atoms) -> dict[str, Any]:
    """Return what a structure says of itself: numbers and texts of its info and its database row, and its energy."""
    info = atoms.info | atoms.info.get("key_value_pairs", {})
    found = {k: v for k, v in info.items() if isinstance(v, (int, float, str, np.number)) and not isinstance(v, bool)}
    energy = energy_and_forces(atoms)[0]
    return found if energy is None else found | {"energy": energy}


def _names_carried(source: Files, columns: list[str]) -> list[str]:
    """Return the numbers that the first readable structure carries, or `columns` where it carries those."""
    for _, (kind, content, _) in itertools.islice(source.records(), _LOOKED_AT):
        try:
            found = _carried(read_piece(kind, content))
        except RejectedError as error:
            reason = error
            continue
        numbers = [name for name, value in found.items() if not isinstance(value, str) and "/" not in name]
        for name in columns:
            if name not in numbers:
                hint = allowed(name, numbers) if numbers else "it carries none; give a table with csv=FILE"
                raise InputError(f"{source.path}: its first structure carries no number {name!r}; {hint}")
        return columns or numbers
    raise InputError(f"{source.path}: none of its first {_LOOKED_AT} structures can be read: {reason}")


def _units(options: dict[str, str], names: list[str]) -> dict[str, str]:
    units = {} if "csv" in options else {"energy": "eV"}
    for pair in opt.names(options, "units"):
        name, colon, unit = pair.partition(":")
        if not colon or name not in names:
            raise InputError(f"option units={options['units']}: {pair!r} is not target:unit; {allowed(name, names)}")
        units[name] = unit
    return units
