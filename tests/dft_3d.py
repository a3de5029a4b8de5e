"""A file of the schema of JARVIS-DFT's dft_3d_2021: all 29 properties, "na" where a crystal lacks one. Nothing in it
is real but the prototypes: properties are made up from composition and volume, with the published spread.

By hand: python tests/dft_3d.py FILE [CRYSTALS]
"""

import json
import sys
from pathlib import Path

import numpy as np
from ase.build import bulk

from hpc_kit.bench.published import read_published

ALL = 55713  # crystals of dft_3d_2021
LEAST_KNOWN = 0.45  # of the crystals have a property, however rare it is: a small file must leave some to each part
METALS = ("Li", "Na", "K", "Mg", "Ca", "Sr", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Al", "Ga", "In")
OTHERS = ("O", "S", "Se", "F", "Cl", "N", "P", "As")
PAIRS = ("rocksalt", "zincblende", "cesiumchloride", "wurtzite")
ALONE = ("fcc", "bcc", "hcp")


def write_dft_3d(path: Path, crystals: int, seed: int = 0) -> None:
    """Write `crystals` records to `path`."""
    generator = np.random.default_rng(seed)
    table = read_published("jarvis_dft_29_tasks").rows
    weights = generator.normal(size=(len(table), 3))
    entries = []
    for number in range(crystals):
        atoms = _crystal(generator)
        z, volume = atoms.numbers, atoms.get_volume() / len(atoms)
        features = np.array([z.mean() / 30 - 1, z.std() / 10 - 0.5, np.log(volume / 15)])
        entry = {
            "jid": f"JVASP-{number + 1}",
            "formula": atoms.get_chemical_formula(),
            "atoms": {
                "lattice_mat": atoms.cell.tolist(),
                "coords": atoms.get_scaled_positions().tolist(),
                "elements": atoms.get_chemical_symbols(),
                "abc": atoms.cell.lengths().tolist(),
                "angles": atoms.cell.angles().tolist(),
                "cartesian": False,
                "props": [""] * len(atoms),
            },
        }
        for row, weight in zip(table, weights, strict=True):
            share = max(LEAST_KNOWN, float(row["graphs"] or ALL / 2) / ALL)
            value = float(row["mad"]) * (float(features @ weight) + 0.1 * generator.normal())
            entry[row["data.target"]] = value if generator.random() < share else "na"
        entries.append(entry)
    path.write_text(json.dumps(entries))


def _crystal(generator: np.random.Generator):
    if generator.random() < 0.3:
        structure, names = str(generator.choice(ALONE)), str(generator.choice(METALS))
        return bulk(
            names, structure, a=float(generator.uniform(2.8, 5.0)), covera=1.6 if structure == "hcp" else None
        )
    structure = str(generator.choice(PAIRS))
    names = str(generator.choice(METALS)) + str(generator.choice(OTHERS))
    a = float(
        generator.uniform(3.0, 4.0) if structure in ("wurtzite", "cesiumchloride") else generator.uniform(4.2, 6.5)
    )
    return bulk(names, structure, a=a)


if __name__ == "__main__":
    write_dft_3d(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
