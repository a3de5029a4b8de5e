"""Start geometries by name or file, their bonds and angles, and in which groups these are compared. Both sides:
nothing here loads torch."""

from itertools import combinations
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.shipped import shipped_folder, user_path

BOND = 1.25  # atoms nearer than this times the sum of their covalent radii are bonded
OVERLAP = 0.6  # atoms nearer than this times that sum lie on top of each other


def shipped() -> dict[str, Path]:
    """Return the molecules that ship with the package."""
    return {path.stem: path for path in sorted((shipped_folder("embedded") / "molecules").glob("*.xyz"))}


def find_molecule(name: str) -> Path:
    """Return the file of a molecule: one that ships, by name, or a path. Raises InputError."""
    files = shipped()
    if name in files:
        return files[name]
    path = user_path(name)
    if path.is_file():
        return path
    raise InputError(f"{name}: no such file, and no molecule of that name ships; {allowed(name, files)}")


def read_molecule(path: Path) -> Atoms:
    """Read the first structure in a file. Raises InputError where there is none, or where atoms overlap."""
    try:
        found = ase.io.read(path, "0")
    except Exception as error:  # ASE's readers raise what comes
        raise InputError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    check_geometry(found, str(path))
    return found


def check_geometry(atoms: Atoms, source: str) -> None:
    """Raise InputError where there are no atoms, a position is not finite, or atoms overlap; `source` holds them."""
    if not len(atoms) or not np.isfinite(atoms.positions).all():
        raise InputError(f"{source}: holds no atoms, or positions that are not finite")
    distance = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    np.fill_diagonal(distance, np.inf)
    radii = covalent_radii[atoms.numbers]
    if len(atoms) > 1 and (near := distance / (radii[:, None] + radii)).min() < OVERLAP:
        i, j = np.unravel_index(near.argmin(), near.shape)
        a, b = (f"{chemical_symbols[atoms.numbers[k]]}{k}" for k in (i, j))
        raise InputError(
            f"{source}: atoms {a} and {b} overlap: {distance[i, j]:.3g} Angstrom apart; mend the start geometry"
        )


def bonds_of(atoms: Atoms) -> np.ndarray:
    """Return [B, 2]: the bonds of a molecule, by its start geometry and covalent radii; none of what is periodic."""
    if atoms.pbc.any():
        return np.zeros((0, 2), np.int64)
    return bonds_by(atoms.numbers, atoms.get_all_distances())


def bonds_by(numbers: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return [B, 2]: the pairs that are nearer than BOND times the sum of their covalent radii; distance [n, n]."""
    radii = covalent_radii[numbers]
    return np.argwhere(np.triu(distance < BOND * (radii[:, None] + radii), k=1))


def order_like(
    numbers: np.ndarray, bonds: np.ndarray, other_numbers: np.ndarray, other_bonds: np.ndarray
) -> np.ndarray | None:
    """Return [n]: for each atom of one molecule the atom of another that has its element and bonds; None where the
    two are not the same molecule. Of atoms that are alike, such as those of a methyl group, any will do."""
    if sorted(numbers) != sorted(other_numbers) or len(bonds) != len(other_bonds):
        return None
    near, far = _partners(bonds, len(numbers)), _partners(other_bonds, len(numbers))

    def kind(z: np.ndarray, partners: list[set[int]], atom: int) -> tuple:
        return z[atom], sorted(z[i] for i in partners[atom])

    queue: list[int] = []  # each atom after one that it is bonded to, where there is one
    for atom in range(len(numbers)):
        fresh = [atom] if atom not in queue else []
        while fresh:
            queue.append(fresh.pop(0))
            fresh += [i for i in sorted(near[queue[-1]]) if i not in queue and i not in fresh]
    found: dict[int, int] = {}

    def place(depth: int) -> bool:
        if depth == len(queue):
            return True
        atom = queue[depth]
        before = [i for i in near[atom] if i in found]
        for other in far[found[before[0]]] if before else range(len(numbers)):
            if other in found.values() or kind(numbers, near, atom) != kind(other_numbers, far, other):
                continue
            if {found[i] for i in before} != far[other] & set(found.values()):
                continue
            found[atom] = other
            if place(depth + 1):
                return True
            del found[atom]
        return False

    return np.array([found[i] for i in range(len(numbers))]) if place(0) else None


def _partners(bonds: np.ndarray, atoms: int) -> list[set[int]]:
    partners: list[set[int]] = [set() for _ in range(atoms)]
    for a, b in bonds.tolist():
        partners[a].add(b)
        partners[b].add(a)
    return partners


def angles_of(bonds: np.ndarray) -> np.ndarray:
    """bonds [B, 2] -> [A, 3]: pairs of bonds at one atom, which stands in the middle."""
    partners: dict[int, list[int]] = {}
    for a, b in bonds.tolist():
        partners.setdefault(a, []).append(b)
        partners.setdefault(b, []).append(a)
    found = [(a, middle, b) for middle, ends in sorted(partners.items()) for a, b in combinations(sorted(ends), 2)]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def groups_of(atoms: Atoms) -> dict[str, np.ndarray]:
    """Return name -> [K, 2] bonds or [K, 3] angles, by their elements: "C-O", "C-C-O".

    C-C bonds are divided further by their surroundings: "C-C near O" where one of the two carbons is bonded to O,
    "C-C far" where neither is bonded to anything but carbon and hydrogen though the molecule has such atoms.
    """
    bonds = bonds_of(atoms)
    found: dict[str, list[tuple[int, ...]]] = {}
    for members in [*map(tuple, bonds.tolist()), *map(tuple, angles_of(bonds).tolist())]:
        found.setdefault(_elements(atoms, members), []).append(members)
    hetero = {i: chemical_symbols[z] for i, z in enumerate(atoms.numbers) if z not in (1, 6)}
    if hetero and "C-C" in found:
        for a, b in found["C-C"]:
            near = {hetero[j] for i, j in _both_ways(bonds) if i in (a, b) and j in hetero}
            name = f"C-C near {', '.join(sorted(near))}" if near else "C-C far"
            found.setdefault(name, []).append((a, b))
    return {name: np.array(members) for name, members in sorted(found.items())}


def elements_of_group(name: str) -> str:
    """Return the elements of a group without its surroundings: "C-C" of "C-C near O"."""
    return name.split(" ")[0]


def _elements(atoms: Atoms, members: tuple[int, ...]) -> str:
    """Return the elements of a bond or an angle, in the one of its two directions that comes first by name."""
    names = [chemical_symbols[atoms.numbers[i]] for i in members]
    return "-".join(min(names, names[::-1]))


def _both_ways(bonds: np.ndarray) -> list[tuple[int, int]]:
    pairs = bonds.tolist()
    return [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
