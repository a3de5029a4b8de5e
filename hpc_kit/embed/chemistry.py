"""Molecules from positions, for a pointer over a map to draw and for fingerprints: what RDKit makes of each."""

from importlib.util import find_spec
from typing import Any

import numpy as np

from hpc_kit.embed.features import Features
from hpc_kit.explain.drawing import Drawn, molecule_of
from hpc_kit.spec.errors import InputError

BITS = 2048
Drawing = list  # [labels, places, bonds]: see drawing()


def has_rdkit() -> bool:
    """Tell whether RDKit is installed."""
    return find_spec("rdkit") is not None


def molecule(found: Features, row: int) -> Any:
    """Return RDKit's molecule without its hydrogens, in the plane; None where no bonds are found."""
    from rdkit import Chem, rdBase

    if found.pbc[row]:
        return None
    atoms = slice(*found.atom_ptr[row : row + 2])
    z, pos = found.z[atoms], found.pos[atoms]
    flat = {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool), "values": z, "limit": 1.0, "unit": ""}
    mol, _ = molecule_of(Drawn(title="", z=z, pos=pos, **flat))
    if mol is None:
        return None
    try:
        with rdBase.BlockLogs():
            return Chem.RemoveHs(mol)
    except ValueError:  # RDKit's errors of a molecule that it cannot make whole are ValueErrors
        return None


def drawing(mol: Any) -> Drawing | None:
    """Return [labels of atoms, places in hundredths of an Angstrom, bonds as triples of two atoms and an order]: a
    carbon with a neighbour has the label ""; None of None."""
    if mol is None:
        return None
    place = mol.GetConformer()
    labels, places, bonds = [], [], []
    for atom in mol.GetAtoms():
        hydrogens = atom.GetTotalNumHs()
        label = atom.GetSymbol() + ("" if not hydrogens else "H" if hydrogens == 1 else f"H{hydrogens}")
        labels.append("" if atom.GetSymbol() == "C" and atom.GetDegree() else label)
        at = place.GetAtomPosition(atom.GetIdx())
        places += [round(100 * at.x), round(100 * at.y)]
    for bond in mol.GetBonds():
        bonds += [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondTypeAsDouble()]
    return [labels, places, bonds]


def drawings(found: Features) -> list[Drawing | None]:
    """Return the drawing of each structure."""
    return [drawing(molecule(found, row)) for row in range(len(found))]


def fingerprints(found: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return Morgan fingerprints of radius 2 [m, BITS] as bits, and which structures [m] have one: those whose bonds
    are found. Raises InputError where RDKit is missing, or where none has."""
    if not has_rdkit():
        raise InputError("roughness.distances: tanimoto needs rdkit: pip install 'hpc_kit[explain]'")
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
    rows, bits = [], []
    for row in range(len(found)):
        if (mol := molecule(found, row)) is not None:
            rows.append(row)
            bits.append(generator.GetFingerprintAsNumPy(mol))
    if not rows:
        raise InputError("roughness.distances: tanimoto is for molecules, and no bonds are found in any structure")
    return np.array(bits, dtype=np.uint8), np.array(rows)
