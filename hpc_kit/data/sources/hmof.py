"""Hypothetical MOFs: a folder, tar or zip of CIF files, and a CSV file of CO2 working capacities at 2.5 bar.

Wilmer et al., Nat. Chem. 4, 83 (2012), doi 10.1038/nchem.1192, made the structures. They and their adsorption data
are handed out as archives of CIF files with a table beside them (MOFX-DB); the table's columns differ from copy to
copy, so the user names them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.archives import Bounds, members
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.data.sources.cif import read_cif
from hpc_kit.data.sources.tables import Table, take
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.spec.errors import InputError

OPTIONS = {
    "csv": "the table of working capacities",
    "column": "its column of CO2 working capacities at 2.5 bar in mol/kg; default: the only one beside the id",
    "id_column": "its column of names, with or without .cif; default: the first",
    **archives.OPTIONS,
}
TARGET = "co2_working_capacity"


class MOFs:
    """CIF files of `place` with the row of `table` that bears their name; core_mof is one as well.

    `rename` maps the table's columns to targets; without a table there are none.
    """

    splits: dict[str, dict[str, list[str]]] = {}

    def __init__(
        self,
        name: str,
        place: Path,
        table: Table | None,
        rename: dict,
        targets: dict,
        origin: dict[str, Any],
        limits: Bounds = Bounds(),
    ):
        self.name, self.place, self.table, self.rename = name, place, table, rename
        self.targets, self.origin, self.limits = targets, origin, limits

    def records(self) -> Iterator[tuple[str, Any]]:
        """Yield (name without .cif, (content, row)); the content of what cannot be read is text: why.

        Rows without a file come last.
        """
        rows = self.table.rows() if self.table else {}
        for file, content in members(self.place, ".cif", self.limits):
            id, row = take(rows, file.removesuffix(".cif"), file)
            yield id, (content, row)
        for id, row in rows.items():
            yield id.removesuffix(".cif"), (f"no CIF file for this row of {self.table.path.name}", row)

    def convert(self, id: str, raw: Any) -> Structure:
        content, row = raw
        if isinstance(content, str):
            raise RejectedError(content)
        if self.table is None:
            return from_ase(id, read_cif(content), {})
        values = self.table.values(row)
        return from_ase(id, read_cif(content), {self.rename[column]: value for column, value in values.items()})


def open_source(path: Path | None, options: dict[str, str]) -> MOFs:
    """Open the CIF files at `path` with the table of option `csv`."""
    path = opt.existing(path, "hmof", "a folder, tar or zip of CIF files")
    file = opt.file(options, "csv", path if path.is_dir() else path.parent)
    if file is None:
        raise InputError("source 'hmof' needs the option csv=FILE: the table of CO2 working capacities")
    column = opt.names(options, "column")
    table = Table(file, options.get("id_column"), column)
    if len(table.columns) != 1:
        raise InputError(f"{file}: which column holds the capacities? give column= one of {', '.join(table.columns)}")
    limits = archives.bounds(options)
    if next(members(path, ".cif", limits), None) is None:
        raise InputError(f"{path}: holds no .cif files")
    target = Target(unit="mol/kg", description="CO2 working capacity at 2.5 bar")
    origin = {
        "dataset": "hMOF",
        "doi": "10.1038/nchem.1192",
        "licence": "as stated where the files come from",
        "from": path.name,
        "csv": file.name,
        "column": table.columns[0],
    }
    origin |= {"follow_links": "true"} if limits.follow else {}
    return MOFs("hmof", path, table, {table.columns[0]: TARGET}, {TARGET: target}, origin, limits)
