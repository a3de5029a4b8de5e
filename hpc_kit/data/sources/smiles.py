"""A table of SMILES: a CSV file with a column of them, or a .smi file (SMILES, then a name). Needs RDKit ([chem]).

There is no geometry in a SMILES: RDKit makes one of each molecule, and `said` says so. A fixed seed makes it the same
every time with the same RDKit. The table's numbers may be targets.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.tables import number
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.spec.errors import InputError, allowed

OPTIONS = {
    "smiles_column": "the column of SMILES; default: smiles",
    "id_column": "the column of ids; default: id or name, where there is one, else row_000001 and so on",
    "columns": "the targets, such as energy,gap; default: none",
    "units": "their units, such as energy:eV,gap:meV",
}
_SMILES, _IDS = ("smiles", "canonical_smiles"), ("id", "name")
_SEED = 61453


class Smiles:
    """Molecules of a table. A raw record is (SMILES, cells of the targets); a target that is no column is NaN."""

    name = "smiles"
    splits: dict[str, dict[str, list[str]]] = {}

    def __init__(self, path: Path, targets: dict[str, Target], smiles: str | None = None, ids: str | None = None):
        try:
            from rdkit import rdBase
        except ModuleNotFoundError:
            raise InputError(
                f"{path}: to make structures of SMILES RDKit is needed: pip install 'hpc-kit[chem]'"
            ) from None
        self.path, self.targets, self._chosen = path, targets, (smiles, ids)
        self.paths = [path]
        self.said = (
            f"3-D by RDKit {rdBase.rdkitVersion} (ETKDGv3, then MMFF94, or UFF where MMFF94 has no parameters)"
        )
        self.origin: dict[str, Any] = {"dataset": "smiles", "from": path.name, "structure": self.said}
        self.columns = self._header()[0]

    def records(self) -> Iterator[tuple[str, Any]]:
        names, smiles, ids, skip = self._header()
        wanted = [names.index(name) if name in names else None for name in self.targets]
        for place, row in enumerate(self._rows()):
            if place < skip:
                continue
            if any(cell.strip() for cell in row):
                cells = [row[i].strip() if i is not None and i < len(row) else "" for i in (smiles, ids, *wanted)]
                yield cells[1] or f"row_{place + 1 - skip:06d}", (cells[0], cells[2:])

    def convert(self, id: str, raw: Any) -> Structure:
        text, cells = raw
        z, pos = structure_of(text)
        known = {name: number(cell, name) for name, cell in zip(self.targets, cells, strict=True)}
        return Structure(id=id, z=z, pos=pos, targets=known, smiles=text)

    def _header(self) -> tuple[list[str], int, int | None, int]:
        """Return names of the columns, the numbers of those of SMILES and of ids, and how many lines are no rows."""
        first = [cell.strip() for cell in next(self._rows(), [])]
        if self.path.suffix.lower() == ".smi":
            return ["smiles", "name"], 0, 1, 0
        lower = [name.lower() for name in first]

        def place(asked: str | None, usual: Sequence[str]) -> int | None:
            if asked is not None and asked not in first:
                raise InputError(f"{self.path}: no column {asked!r}; {allowed(asked, first)}")
            found = [first.index(asked)] if asked else [lower.index(name) for name in usual if name in lower]
            return found[0] if found else None

        smiles = place(self._chosen[0], _SMILES)
        if smiles is None:
            raise InputError(
                f"{self.path}: has no column called smiles; its first line says {', '.join(first)[:80]!r}"
            )
        return first, smiles, place(self._chosen[1], _IDS), 1

    def _rows(self) -> Iterator[list[str]]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                if self.path.suffix.lower() == ".smi":
                    yield from (line.split(None, 1) for line in file)
                    return
                head = file.readline()
                file.seek(0)
                yield from csv.reader(file, delimiter=next((s for s in ",;\t" if s in head), ","))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path}: cannot be read as a CSV file in UTF-8: {error}") from None


def structure_of(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    """Return z [n] uint8 and pos [n, 3] Angstrom of a molecule, hydrogens added. Raises RejectedError."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import AllChem

    with rdBase.BlockLogs():  # what is wrong is said once, by the reason
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None or not molecule.GetNumAtoms():
            raise RejectedError(f"{smiles[:60]!r} is not a SMILES that RDKit reads")
        molecule = Chem.AddHs(molecule)
        settings = AllChem.ETKDGv3()
        settings.randomSeed = _SEED
        if AllChem.EmbedMolecule(molecule, settings) != 0:
            settings.useRandomCoords = True
            if AllChem.EmbedMolecule(molecule, settings) != 0:
                raise RejectedError(f"RDKit finds no 3-D structure for {smiles[:60]!r}")
        if AllChem.MMFFHasAllMoleculeParams(molecule):
            AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
        elif AllChem.UFFHasAllMoleculeParams(molecule):
            AllChem.UFFOptimizeMolecule(molecule, maxIters=2000)
    z = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8)
    return z, molecule.GetConformer().GetPositions()


def open_source(path: Path | None, options: dict[str, str]) -> Smiles:
    """Open a table of SMILES."""
    path = opt.existing(path, "smiles", "a CSV file with a column of SMILES, or a .smi file", "file")
    names, units = opt.names(options, "columns"), {}
    for pair in opt.names(options, "units"):
        name, colon, unit = pair.partition(":")
        if not colon or name not in names:
            raise InputError(f"option units={options['units']}: {pair!r} is not target:unit; {allowed(name, names)}")
        units[name] = unit
    targets = {name: Target(unit=units.get(name, ""), description=f"{name} of {path.name}") for name in names}
    source = Smiles(path, targets, options.get("smiles_column"), options.get("id_column"))
    for name in names:
        if name not in source.columns:
            raise InputError(f"{path}: no column {name!r}; {allowed(name, source.columns)}")
    source.origin |= options
    return source
