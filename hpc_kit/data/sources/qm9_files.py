"""The forms in which QM9 is passed on, one reader and one parser each, and its list of uncharacterised molecules.

A reader yields (N, raw) with QM9's own number N of a molecule. A parser turns raw into (element symbols,
positions in Angstrom, the 15 properties in the order and units of QM9's .xyz files, SMILES or "").
"""

import csv
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc_kit.data.sources.archives import Bounds, members
from hpc_kit.spec.errors import InputError

QM9PACK_COLUMNS = [
    *("RotA_GHz", "RotB_GHz", "RotC_GHz", "Dipole_debye", "Polarizability_bohr3", "HOMO_au", "LUMO_au"),
    *("HOMO_LUMO_gap_au", "R2_bohr2", "ZPVE_au", "InternalEnergy_0K_au", "InternalEnergy_298K_au"),
    *("Enthalphy_298K_au", "GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K"),
]
SDF_COLUMNS = ["A", "B", "C", *"mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv".split()]
# PyG moves A, B, C behind the other properties and the atomisation energies, and turns hartree into this many eV.
PYG_ORDER = [16, 17, 18, *range(12)]
PYG_ENERGIES = range(5, 14)  # homo to g298 among the 15, but r2
PYG_HARTREE = 27.211386246
Parsed = tuple[list[str], Any, list[float], str]


def form_of(place: Path, limits: Bounds = Bounds()) -> tuple[Callable, Callable]:
    """Return (reader, parser) for a file or folder of QM9, read within `limits`. InputError where it is none."""
    if place.name == "gdb9.sdf" or (place / "gdb9.sdf").is_file():
        table = (place if place.is_dir() else place.parent) / "gdb9.sdf.csv"
        if not table.is_file():
            raise InputError(f"{table}: missing; gdb9.sdf holds no properties without it")
        return read_sdf, parse_sdf
    if place.suffix == ".pt" and place.is_file():
        return read_pyg, parse_pyg
    if next(members(place, ".xyz", limits), None) is None:
        raise InputError(f"{place}: holds no .xyz files and no gdb9.sdf")
    return functools.partial(read_xyz, limits=limits), parse_xyz


def uncharacterized(path: Path | None) -> frozenset[int]:
    """Return the numbers of the molecules that a list names: the first word of each line that starts with a number.

    That reads QM9's uncharacterized.txt as well as one number a line. None stands for the list of QM9's authors,
    which ships with this package.
    """
    shipped = _numbers(Path(__file__).with_name("qm9_uncharacterized.txt"))
    if path is None:
        return shipped
    listed = _numbers(path)
    if not listed:
        raise InputError(f"{path}: no line starts with the number of a molecule")
    if {number + 1 for number in listed} == shipped:
        raise InputError(f"{path}: counts molecules from 0; QM9 counts from 1, so add 1 to each")
    return listed


def _numbers(path: Path) -> frozenset[int]:
    words = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return frozenset(int(word[0]) for word in words if word and word[0].isdecimal())


def read_qm9pack(folder: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for part in (1, 2, 3):
        with (folder / f"qm9_part{part}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                yield (
                    int(row["Index"]),
                    {key: row[key] for key in ("Elements", "XYZ_Ang", "SMILES", *QM9PACK_COLUMNS)},
                )


def parse_qm9pack(row: dict[str, str]) -> Parsed:
    # The CSV writes numbers as `1.` and strings in single quotes: neither is JSON, both are plain to split.
    numbers = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
    symbols = [symbol.strip() for symbol in row["Elements"].strip("[]").replace("'", "").split(",")]
    values = [float(row[column]) for column in QM9PACK_COLUMNS]
    return symbols, [float(number) for number in numbers], values, row["SMILES"]


def read_xyz(place: Path, limits: Bounds = Bounds()) -> Iterator[tuple[int, str]]:
    """Yield (N, text) of .xyz files. N is in the second line, `gdb N`; the file's name is not trusted with it."""
    for name, content in members(place, ".xyz", limits):
        if isinstance(content, str):
            raise InputError(f"{place}: {name}: {content}")
        text = content.decode("ascii", "replace")
        words = text.split("\n", 2)[1].split(maxsplit=2) if text.count("\n") > 1 else []
        if len(words) < 2 or words[0] != "gdb" or not words[1].isdecimal():
            raise InputError(f"{place}: {name}: its second line does not start with `gdb N`: not a file of QM9")
        yield int(words[1]), text


def parse_xyz(text: str) -> Parsed:
    lines = text.replace("*^", "e").splitlines()  # QM9 writes 2.1e-06 as 2.1*^-6
    count = int(lines[0])
    atoms = [line.split() for line in lines[2 : 2 + count]]
    # The atoms are followed by the frequencies, then by the SMILES from GDB-17 and from the relaxed geometry.
    smiles = lines[count + 3].split() if len(lines) > count + 3 else []
    return (
        [atom[0] for atom in atoms],
        [[float(word) for word in atom[1:4]] for atom in atoms],
        [float(word) for word in lines[1].split()[2:]],
        smiles[0] if smiles else "",
    )


def read_sdf(place: Path) -> Iterator[tuple[int, tuple[str, dict[str, str]]]]:
    """Yield (N, (block of gdb9.sdf, row of gdb9.sdf.csv)); both name each molecule `gdb_N` and must agree."""
    folder = place if place.is_dir() else place.parent
    with (
        (folder / "gdb9.sdf").open(encoding="ascii", errors="replace") as sdf,
        (folder / "gdb9.sdf.csv").open(encoding="utf-8-sig", newline="") as table,
    ):
        rows = csv.DictReader(table)
        for column in ("mol_id", *SDF_COLUMNS):
            if (found := list(rows.fieldnames or []).count(column)) != 1:
                raise InputError(f"{folder / 'gdb9.sdf.csv'}: {found or 'no'} column{'s' * (found > 1)} {column!r}")
        for block, row in itertools.zip_longest(_blocks(sdf), rows):
            names = (block or "\n").split("\n", 1)[0].strip(), (row or {}).get("mol_id")
            if names[0] != names[1] or not names[0].removeprefix("gdb_").isdecimal():
                raise InputError(f"{folder}: gdb9.sdf has {names[0]!r} where gdb9.sdf.csv has {names[1]!r}")
            yield int(names[0].removeprefix("gdb_")), (block, row)


def _blocks(file: Any) -> Iterator[str]:
    lines: list[str] = []
    for line in file:
        if line.startswith("$$$$"):
            yield "".join(lines)
            lines = []
        else:
            lines.append(line)


def parse_sdf(raw: tuple[str, dict[str, str]]) -> Parsed:
    """Parse a V2000 block: the fourth line counts the atoms, an atom is x, y, z in 10 columns each and its symbol."""
    lines = raw[0].splitlines()
    atoms = lines[4 : 4 + int(lines[3][:3])]
    return (
        [line[31:34].strip() for line in atoms],
        [[float(line[i : i + 10]) for i in (0, 10, 20)] for line in atoms],
        [float(raw[1][column]) for column in SDF_COLUMNS],
        "",
    )


def read_pyg(place: Path) -> Iterator[tuple[int, tuple[list[int], list, list[float]]]]:
    """Yield (N, (z, positions, the 19 targets)) of PyG's processed file, which must load without running code."""
    try:
        import torch
        import torch_geometric  # noqa: F401  torch then knows PyG's Data as a harmless class

        data, slices, _ = torch.load(place, weights_only=True, mmap=True)
        z, pos, y, starts = data["z"], data["pos"], data["y"], slices["z"].tolist()
        names = [int(name.removeprefix("gdb_")) for name in data["name"]]
    except Exception as error:
        raise InputError(
            f"{place}: not a file of PyG's QM9 that can be read safely ({type(error).__name__}); read its raw folder"
        ) from None
    for i, number in enumerate(names):
        part = slice(starts[i], starts[i + 1])
        yield number, (z[part].tolist(), pos[part].tolist(), y[i].tolist())


def parse_pyg(raw: tuple[list[int], list, list[float]]) -> Parsed:
    symbols = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
    values = [raw[2][i] for i in PYG_ORDER]
    for i in PYG_ENERGIES:
        if i != SDF_COLUMNS.index("r2"):
            values[i] /= PYG_HARTREE
    return [symbols[z] for z in raw[0]], raw[1], values, ""
