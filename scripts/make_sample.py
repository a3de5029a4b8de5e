"""Makes hpc_kit/embedded/qm9_sample: 4,000 QM9 molecules drawn at random from the qm9pack package.

Usage: pip install --no-deps qm9pack==1.0.3 && python scripts/make_sample.py
qm9pack's own code is not imported (it needs pkg_resources); its CSV files are read where they lie.
"""

import csv
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from hpc_kit.data.manifest import Target
from hpc_kit.data.shards import write_shard_set
from hpc_kit.data.structures import Structure
from hpc_kit.data.units import HARTREE
from hpc_kit.spec.shipped import shipped_folder

COUNT, SEED = 4000, 2014
# name: (column of the CSV, factor to the unit, unit, description)
COLUMNS = {
    "rot_a": ("RotA_GHz", 1.0, "GHz", "rotational constant A"),
    "rot_b": ("RotB_GHz", 1.0, "GHz", "rotational constant B"),
    "rot_c": ("RotC_GHz", 1.0, "GHz", "rotational constant C"),
    "mu": ("Dipole_debye", 1.0, "D", "dipole moment"),
    "alpha": ("Polarizability_bohr3", 1.0, "bohr^3", "isotropic polarizability"),
    "homo": ("HOMO_au", HARTREE, "eV", "energy of the highest occupied molecular orbital"),
    "lumo": ("LUMO_au", HARTREE, "eV", "energy of the lowest unoccupied molecular orbital"),
    "gap": ("HOMO_LUMO_gap_au", HARTREE, "eV", "gap between HOMO and LUMO"),
    "r2": ("R2_bohr2", 1.0, "bohr^2", "electronic spatial extent"),
    "zpve": ("ZPVE_au", HARTREE, "eV", "zero-point vibrational energy"),
    "u0": ("InternalEnergy_0K_au", HARTREE, "eV", "internal energy at 0 K"),
    "u298": ("InternalEnergy_298K_au", HARTREE, "eV", "internal energy at 298.15 K"),
    "h298": ("Enthalphy_298K_au", HARTREE, "eV", "enthalpy at 298.15 K"),
    "g298": ("GibbsFreeEnergy_298K_au", HARTREE, "eV", "free energy at 298.15 K"),
    "cv": ("Heatcapacity_Cv_cal_mol_K", 1.0, "cal/(mol K)", "heat capacity at 298.15 K"),
}


def rows(folder: Path):
    """Yield the rows of qm9pack's three parts in QM9's order."""
    for part in (1, 2, 3):
        with (folder / f"qm9_part{part}.csv").open(newline="") as file:
            yield from csv.DictReader(file)


def structure(row: dict[str, str]) -> Structure:
    # The CSV writes numbers as `1.` and strings in single quotes: neither is JSON, both are plain to split.
    numbers = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
    symbols = row["Elements"].strip("[]").replace("'", "").split(",")
    return Structure(
        id=f"gdb_{int(row['Index'])}",
        z=np.array([atomic_numbers[s.strip()] for s in symbols]),
        pos=np.array(numbers, dtype=float).reshape(-1, 3),
        targets={name: float(row[column]) * factor for name, (column, factor, _, _) in COLUMNS.items()},
    )


def main() -> None:
    data = Path(importlib.metadata.distribution("qm9pack").locate_file("qm9pack/data"))
    total = sum(1 for _ in rows(data))
    chosen = set(np.random.Generator(np.random.PCG64(SEED)).choice(total, COUNT, replace=False).tolist())
    structures = [structure(row) for index, row in enumerate(rows(data)) if index in chosen]
    source = {
        "dataset": "QM9",
        "doi": "10.1038/sdata.2014.22",
        "licence": "CC0",
        "from": "qm9pack 1.0.3",
        "sample": f"{COUNT} of {total} molecules, numpy PCG64({SEED}).choice without replacement, QM9's order",
    }
    targets = {name: Target(unit=unit, description=text) for name, (_, _, unit, text) in COLUMNS.items()}
    folder = shipped_folder("embedded") / "qm9_sample"
    shutil.rmtree(folder, ignore_errors=True)
    manifest = write_shard_set(folder, structures, "qm9_sample", source, targets)
    print(json.dumps({"graphs": manifest.graphs, "sha256": manifest.sha256}), file=sys.stdout)


main()
