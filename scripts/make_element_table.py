"""Makes hpc_kit/embedded/elements.json: the 92 CGCNN features of the elements from hydrogen to fermium.

Usage: pip download --no-deps mendeleev==0.4.1
       python scripts/make_element_table.py mendeleev-0.4.1-py2.py3-none-any.whl [--compare atom_init.json]
The properties are those of mendeleev 0.4.1 (2017), the package and the time CGCNN's own table was made with
(https://github.com/txie-93/cgcnn/issues/2). Later versions derive the molar volume of gases at room temperature
and number the groups of La, Lu and Ac differently. Its database is read where it lies; its code is not imported.
--compare prints how far the result agrees with CGCNN's atom_init.json.
"""

import argparse
import json
import math
import re
import sqlite3
import tempfile
import zipfile
from pathlib import Path

from hpc_kit.files import write_atomically
from hpc_kit.spec.shipped import shipped_folder

LAST = 100  # fermium: CGCNN's table ends here
# Property, number of features, in the vector's order. Bins: Xie & Grossman 2018, supplemental material, table S2.
WIDTHS = {
    "group": 19,  # 0: none (lanthanides and actinides)
    "period": 7,
    "electronegativity": 10,
    "covalent radius": 10,
    "valence electrons": 12,
    "ionisation energy": 10,
    "electron affinity": 10,
    "block": 4,
    "atomic volume": 10,
}


def bin_of(value: float | None, low: float, high: float, bins: int = 10) -> int | None:
    """Return which of `bins` equal bins from `low` to `high` holds `value`; None outside them or without a value."""
    if value is None or not low <= value < high:
        return None
    return int((value - low) / (high - low) * bins)


def electrons(configuration: str, configurations: dict[str, str]) -> dict[tuple[int, str], int]:
    """Return how many electrons each subshell (n, letter) holds, with noble-gas cores like [Ar] written out."""
    filled: dict[tuple[int, str], int] = {}
    for core, n, letter, count in re.findall(r"\[(\w+)\]|(\d)([spdf])(\d*)", configuration):
        if core:
            filled |= electrons(configurations[core], configurations)
        else:
            filled[int(n), letter] = int(count or 1)
    return filled


def valence(filled: dict[tuple[int, str], int], block: str) -> int:
    """Count valence electrons as mendeleev does: those of the outermost shell n; in the d block ns and (n-1)d; in
    the f block 2. Palladium has no 5s electron, so its n is 4 and its count 12, as in CGCNN's table."""
    n = max(shell for shell, _ in filled)
    if block == "f":
        return 2
    if block == "d":
        return filled[n, "s"] + filled[n - 1, "d"]
    return sum(count for (shell, _), count in filled.items() if shell == n)


def log(value: float | None) -> float | None:
    return None if value is None else math.log(value)


def features(row: sqlite3.Row, configurations: dict[str, str]) -> list[int]:
    """Return the vector of one element: for each property the bin that is set, if any."""
    filled = electrons(row["electronic_configuration"], configurations)
    hot = {
        "group": row["group_id"] or 0,
        "period": row["period"] - 1,
        "electronegativity": bin_of(row["en_pauling"], 0.5, 4.0),  # Pauling
        "covalent radius": bin_of(row["covalent_radius_pyykko"], 25, 250),  # pm
        "valence electrons": valence(filled, row["block"]) - 1,
        "ionisation energy": bin_of(log(row["energy"]), 1.3, 3.3),  # ln(eV)
        "electron affinity": bin_of(row["electron_affinity"], -3.0, 3.7),  # eV
        "block": "spdf".index(row["block"]),
        "atomic volume": bin_of(log(row["atomic_volume"]), 1.5, 4.3),  # ln(cm3/mol)
    }
    return [int(hot[name] == i) for name, width in WIDTHS.items() for i in range(width)]


def read_rows(wheel: Path) -> list[sqlite3.Row]:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        database = sqlite3.connect(archive.extract("mendeleev/elements.db", folder))
        database.row_factory = sqlite3.Row
        rows = database.execute(
            "SELECT e.*, i.energy FROM elements e LEFT JOIN ionizationenergies i"
            " ON i.atomic_number = e.atomic_number AND i.degree = 1"
            " WHERE e.atomic_number <= ? ORDER BY e.atomic_number",
            (LAST,),
        ).fetchall()
        database.close()
    return rows


def compare(table: dict[str, list[int]], other: dict[str, list[int]]) -> None:
    """Print the share of equal bits, and every element and property that differs."""
    equal = sum(a == b for z in other for a, b in zip(table[z], other[z], strict=True))
    print(f"{equal} of {sum(map(len, other.values()))} bits equal")
    for z, ours in table.items():
        start = 0
        for name, width in WIDTHS.items():
            part = slice(start, start := start + width)
            if ours[part] != other[z][part]:
                print(f"Z = {z}, {name}: {ours[part]} here, {other[z][part]} there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="mendeleev-0.4.1-py2.py3-none-any.whl")
    parser.add_argument("--compare", type=Path, help="CGCNN's atom_init.json")
    arguments = parser.parse_args()
    rows = read_rows(arguments.wheel)
    configurations = {row["symbol"]: row["electronic_configuration"] for row in rows}
    table = {str(row["atomic_number"]): features(row, configurations) for row in rows}
    lines = ",\n".join(f'"{z}": {json.dumps(vector, separators=(",", ":"))}' for z, vector in table.items())
    write_atomically(shipped_folder("embedded") / "elements.json", f"{{\n{lines}\n}}\n".encode())
    if arguments.compare:
        compare(table, json.loads(arguments.compare.read_text()))


main()
