"""Velocity Verlet and Langevin steps of many systems at once. The node side.

Not for: forces (forces.py), what is watched (guard.py), what is kept (leg.py).
"""

from collections.abc import Callable

import numpy as np
from ase import units

from hpc_kit.md.systems import Systems

# From systems to (energies [S] eV, forces [N, 3] eV/Angstrom), float64.
Forces = Callable[[Systems], tuple[np.ndarray, np.ndarray]]


class Verlet:
    """Systems with their forces, one time step (ASE's units) after another.

    energies [S] and forces [N, 3] are always those of the positions; `found`: both, where they are known already.
    The operations are those of ASE's VelocityVerlet in the same order.
    """

    def __init__(
        self, systems: Systems, forces: Forces, timestep: float, found: tuple[np.ndarray, np.ndarray] | None = None
    ):
        self.systems, self.timestep, self._of = systems, timestep, forces
        self.energies, self.forces = found or forces(systems)

    def finite(self) -> np.ndarray:
        """[S]: whether a system's energy, forces and positions are all finite."""
        of_atoms = np.abs(self.forces).sum(axis=1) + np.abs(self.systems.pos).sum(axis=1)
        return np.isfinite(self.energies) & np.isfinite(self.systems.sums(of_atoms))

    def total(self) -> np.ndarray:
        """[S] eV: potential and kinetic energy."""
        return self.energies + self.systems.kinetic()

    def step(self) -> None:
        """Move by velocity Verlet (Swope et al. 1982, doi 10.1063/1.442716): the total energy is kept."""
        systems, half = self.systems, 0.5 * self.timestep
        momenta = systems.momenta + half * self.forces
        systems.pos = systems.pos + self.timestep * momenta / systems.masses[:, None]
        self.energies, self.forces = self._of(systems)
        systems.momenta = momenta + half * self.forces

    def langevin(self, temperature_K: float, friction: float, rng: np.random.Generator) -> None:
        """Move by Langevin dynamics, BAOAB (Leimkuhler & Matthews 2013, doi 10.1063/1.4802990). friction: 1/time in
        ASE's units."""
        systems, half = self.systems, 0.5 * self.timestep
        keep = np.exp(-friction * self.timestep)
        spread = np.sqrt((1 - keep**2) * units.kB * temperature_K * systems.masses)[:, None]
        momenta = systems.momenta + half * self.forces
        pos = systems.pos + half * momenta / systems.masses[:, None]
        momenta = keep * momenta + spread * rng.standard_normal(momenta.shape)
        systems.pos = pos + half * momenta / systems.masses[:, None]
        self.energies, self.forces = self._of(systems)
        systems.momenta = momenta + half * self.forces

    def keep(self, which: np.ndarray) -> None:
        """Go on with the systems where `which` [S] is true."""
        atoms = which[self.systems.system_of_atom]
        self.systems, self.energies, self.forces = (
            self.systems.only(which), self.energies[which], self.forces[atoms],
        )  # fmt: skip
