"""The state of many replicas of molecules or crystals that move side by side. The node side.

Units are ASE's: Angstrom, eV, u, and for time Angstrom sqrt(u/eV); `ase.units.fs` is a femtosecond in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms, units


@dataclass
class Systems:
    """S systems of N atoms in all, each a replica of some molecule; all numbers float64.

    z [N] int64; ptr [S+1] int64, where the atoms of each system begin; masses [N] u; pos [N, 3] Angstrom;
    momenta [N, 3]; cell [S, 3, 3] Angstrom; pbc [S, 3] bool; molecule, replica [S] int64: which is what.
    """

    z: np.ndarray
    ptr: np.ndarray
    masses: np.ndarray
    pos: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    molecule: np.ndarray
    replica: np.ndarray

    @classmethod
    def of(cls, molecules: Sequence[Atoms], replicas: int) -> "Systems":
        """Return `replicas` of each of the molecules, with the momenta that they have."""
        copies = [atoms for atoms in molecules for _ in range(replicas)]
        return cls(
            z=np.concatenate([atoms.numbers for atoms in copies]).astype(np.int64),
            ptr=np.concatenate([[0], np.cumsum([len(atoms) for atoms in copies])]).astype(np.int64),
            masses=np.concatenate([atoms.get_masses() for atoms in copies]),
            pos=np.concatenate([atoms.positions for atoms in copies]).astype(np.float64),
            momenta=np.concatenate([atoms.get_momenta() for atoms in copies]).astype(np.float64),
            cell=np.stack([np.where(atoms.pbc[:, None], np.array(atoms.cell), 0.0) for atoms in copies]),
            pbc=np.stack([np.array(atoms.pbc, bool) for atoms in copies]),
            molecule=np.repeat(np.arange(len(molecules)), replicas),
            replica=np.tile(np.arange(replicas), len(molecules)),
        )

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """[S] how many atoms each has."""
        return np.diff(self.ptr)

    @property
    def system_of_atom(self) -> np.ndarray:
        """[N] which system an atom is of."""
        return np.repeat(np.arange(len(self)), self.counts)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """values [N, ...] -> [S, ...]: the sum over the atoms of each system."""
        return np.add.reduceat(values, self.ptr[:-1], axis=0)

    def kinetic(self) -> np.ndarray:
        """[S] eV."""
        return 0.5 * self.sums(np.square(self.momenta).sum(axis=1) / self.masses)

    def freedoms(self) -> np.ndarray:
        """[S] degrees of freedom when the total momentum is zero, and for molecules the angular momentum too."""
        lost = np.where(self.pbc.any(axis=1), 3, np.minimum(6, 3 + 3 * (self.counts - 1)))
        lost = np.where((self.counts == 2) & ~self.pbc.any(axis=1), 5, lost)
        return np.maximum(3 * self.counts - lost, 1)

    def temperature(self) -> np.ndarray:
        """[S] K."""
        return 2 * self.kinetic() / (self.freedoms() * units.kB)

    def centre(self) -> np.ndarray:
        """[S, 3] Angstrom: the centre of mass."""
        return self.sums(self.pos * self.masses[:, None]) / self.sums(self.masses)[:, None]

    def angular_momentum(self) -> np.ndarray:
        """[S, 3] about the centre of mass."""
        arms = self.pos - self.centre()[self.system_of_atom]
        return self.sums(np.cross(arms, self.momenta))

    def draw_momenta(self, temperature_K: float, rng: np.random.Generator) -> None:
        """Draw momenta of Maxwell and Boltzmann, then take away total and angular momentum."""
        spread = np.sqrt(self.masses * units.kB * temperature_K)
        self.momenta = rng.standard_normal(self.pos.shape) * spread[:, None]
        self.stand_still()

    def stand_still(self) -> None:
        """Take away each system's total momentum and, of molecules, its rotation."""
        owner, mass = self.system_of_atom, self.sums(self.masses)
        self.momenta = self.momenta - (self.sums(self.momenta) / mass[:, None])[owner] * self.masses[:, None]
        arms = self.pos - self.centre()[owner]
        square = np.square(arms).sum(axis=1)[:, None, None] * np.eye(3) - arms[:, :, None] * arms[:, None, :]
        inertia = self.sums(square * self.masses[:, None, None])
        omega = np.einsum("sij,sj->si", np.linalg.pinv(inertia, rcond=1e-8), self.angular_momentum())
        omega[self.pbc.any(axis=1)] = 0.0
        self.momenta = self.momenta - np.cross(omega[owner], arms) * self.masses[:, None]

    def only(self, keep: np.ndarray) -> "Systems":
        """Return the systems where `keep` [S] is true."""
        atoms = keep[self.system_of_atom]
        of_atoms = {name: getattr(self, name)[atoms] for name in ("z", "masses", "pos", "momenta")}
        of_systems = {name: getattr(self, name)[keep] for name in ("cell", "pbc", "molecule", "replica")}
        ptr = np.concatenate([[0], np.cumsum(self.counts[keep])]).astype(np.int64)
        return replace(self, ptr=ptr, **of_atoms, **of_systems)

    def atoms(self, system: int) -> Atoms:
        """Return one system as ASE has it."""
        part = slice(self.ptr[system], self.ptr[system + 1])
        atoms = Atoms(self.z[part], self.pos[part], cell=self.cell[system], pbc=self.pbc[system])
        atoms.set_masses(self.masses[part])
        atoms.set_momenta(self.momenta[part])
        return atoms
