"""What an atom is in its molecule: its element, and its role by the atoms bonded to it, such as N of NH or O of C=O.

From distances alone, for millions of atoms at once and without RDKit; bond orders are not known, so roles are named
by numbers of neighbours. Crystals have elements only.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from hpc_kit.data.shards import Arrays

STRETCH = 1.3  # bonded: closer than this times the sum of the covalent radii, as RDKit's rule has it
_H, _C, _N, _O = 1, 6, 7, 8


def roles_of(arrays: Arrays) -> np.ndarray:
    """Return [A] texts: the role of each atom in `arrays` (with edges); of periodic structures the element.

    A heavy atom is called after itself and its hydrogens ("N", "NH", "NH2", "OH", "CH3"), but "C of C=O" and "O of
    C=O" where an O has nothing but a C, "C of C#N" and "N of C#N" where an N has nothing but a C with two
    neighbours; a hydrogen after the element it is bonded to ("H on N").
    """
    z, atoms = arrays.z.astype(np.int64), len(arrays.z)
    symbols = np.array(chemical_symbols)
    graph = np.repeat(np.arange(len(arrays.ids)), np.diff(arrays.edge_ptr))
    src, dst = (ends + arrays.atom_ptr[:-1][graph] for ends in (arrays.src.astype(np.int64), arrays.dst))
    distance = np.linalg.norm(arrays.pos[src] - arrays.pos[dst], axis=1)
    near = bonded(z[src], z[dst], distance)
    src, dst = src[near], dst[near]
    degree = np.bincount(dst, minlength=atoms)
    hydrogens = np.bincount(dst[z[src] == _H], minlength=atoms)
    partner = np.full(atoms, -1)
    partner[dst] = src  # of an atom with one bond, the other
    alone = (degree == 1) & (partner >= 0)
    on_carbon = alone & (z[partner] == _C)
    carbonyl = (z == _O) & on_carbon
    nitrile = (z == _N) & on_carbon & (degree[partner] == 2)
    counts = np.array(["", "H", *(f"H{n}" for n in range(2, 16))])
    found = np.char.add(symbols[z], counts[np.minimum(hydrogens, 15)]).astype("U16")
    for ends, name in ((carbonyl, "C=O"), (nitrile, "C#N")):
        found[ends] = [f"{symbol} of {name}" for symbol in symbols[z[ends]]]
        found[partner[ends]] = f"C of {name}"
    held = (z == _H) & alone
    found[held] = [f"H on {symbol}" for symbol in symbols[z[partner[held]]]]
    periodic = np.repeat(arrays.pbc.any(axis=1), np.diff(arrays.atom_ptr))
    return np.where(periodic, symbols[z], found)


def bonded(first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """first, second [P] atomic numbers, distance [P] Angstrom -> [P] bool."""
    near = distance < STRETCH * (covalent_radii[first] + covalent_radii[second])
    return near & ~((first == _H) & (second == _H) & (distance > 1.0))


@dataclass
class Roles:
    """Sums over atoms by element and by role, which add up over parts. sums: kind -> name -> method -> six numbers:
    atoms, sum of values, of squares, of absolute values, of value less the mean of its structure, and of the absolute
    value over the mean absolute value of its structure."""

    sums: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, z: np.ndarray, roles: np.ndarray, maps: dict[str, np.ndarray], atom_ptr: np.ndarray) -> None:
        """z, roles [A] and maps (method -> [A]) of structures that begin at atom_ptr [n+1]."""
        graph, atoms = np.repeat(np.arange(len(atom_ptr) - 1), np.diff(atom_ptr)), np.diff(atom_ptr)
        for kind, names in (("element", np.array(chemical_symbols)[z]), ("role", roles)):
            labels, place = np.unique(names, return_inverse=True)
            for method, values in maps.items():
                size = np.abs(values)
                mean = np.bincount(graph, values, len(atoms)) / atoms
                mean_size = np.bincount(graph, size, len(atoms)) / atoms
                weight = np.divide(size, mean_size[graph], out=np.ones_like(size), where=mean_size[graph] > 0)
                columns = (np.ones_like(values), values, values**2, size, values - mean[graph], weight)
                table = np.stack([np.bincount(place, column, len(labels)) for column in columns], axis=1)
                for label, row in zip(labels.tolist(), table.tolist(), strict=True):
                    self._merge(kind, label, method, row)

    def merge(self, sums: dict) -> None:
        """Add what another part has summed."""
        for kind, names in sums.items():
            for name, methods in names.items():
                for method, row in methods.items():
                    self._merge(kind, name, method, row)

    def _merge(self, kind: str, name: str, method: str, row: Iterable[float]) -> None:
        held = self.sums.setdefault(kind, {}).setdefault(name, {}).setdefault(method, [0.0] * 6)
        held[:] = [a + b for a, b in zip(held, row, strict=True)]

    def report(self, method: str) -> list[dict]:
        """Return a row a kind and name, those with the largest weight first: atoms, mean, sd, mean_size (of absolute
        values), above_mean (less the mean of the structure) and weight (the absolute value over that of the
        structure's mean atom: 1 is as much as the average)."""
        rows = []
        for kind, names in self.sums.items():
            found = []
            for name, methods in names.items():
                atoms, total, squares, size, above, weight = methods[method]
                mean = total / atoms
                sd = max(squares / atoms - mean * mean, 0.0) ** 0.5
                row = {"kind": kind, "name": name, "atoms": int(atoms), "mean": mean, "sd": sd}
                found.append(row | {"mean_size": size / atoms, "above_mean": above / atoms, "weight": weight / atoms})
            rows += sorted(found, key=lambda row: -row["weight"])
        return rows
