"""Watches a run: ends a replica that has left what can be believed, and counts what the training never saw. The node
side.

Looked at in each step: NaN, the temperature, the total energy, bonds, atoms that fly away, pairs that come too close.
Not for: the steps themselves (verlet.py), what is said of a whole run (drift.py).
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from hpc_kit.md.forces import MOST_ALL_PAIRS
from hpc_kit.md.job import Limits
from hpc_kit.md.molecules import OVERLAP, bonds_of
from hpc_kit.md.systems import Systems
from hpc_kit.md.training import FARTHEST, Range, bins_of, pair_of
from hpc_kit.md.verlet import Verlet


class Guard:
    """Holds limits against systems. `looked`, `outside` [molecules]: how many distances were counted, and how many of
    them lie where the training saw none; `by_pair` [ELEMENTS²]: the latter by their elements."""

    def __init__(self, molecules: Sequence[Atoms], limits: Limits, temperature_K: float, seen: Range | None):
        self._molecules, self._limits, self._seen = molecules, limits, seen
        self._hottest = limits.temperature * temperature_K
        self._bonds = [bonds_of(atoms) for atoms in molecules]
        self._of: bytes = b""
        self.start: np.ndarray | None = None  # [S] eV: the total energies that are to be kept
        self.looked = np.zeros(len(molecules), np.int64)
        self.outside = np.zeros(len(molecules), np.int64)
        self.by_pair = np.zeros(0 if seen is None else len(seen.shortest), np.int64)

    def unwatched(self, names: Sequence[str]) -> list[str]:
        """Return in words, for the molecules of these `names`, what is not looked at in each of them."""
        told = []
        for name, atoms in zip(names, self._molecules, strict=True):
            if atoms.pbc.any():
                told.append(f"{name}: bonds, close pairs and atoms that fly away are not watched in a crystal")
            elif len(atoms) > MOST_ALL_PAIRS:
                told.append(f"{name}: close pairs are not watched in molecules of over {MOST_ALL_PAIRS} atoms")
        return told

    def begin(self, verlet: Verlet) -> None:
        """Take the total energies of now as those to be kept."""
        self.start = verlet.total()

    def keep(self, which: np.ndarray) -> None:
        if self.start is not None:
            self.start = self.start[which]

    def check(self, verlet: Verlet) -> dict[int, str]:
        """Return system -> why it must end; {} where all is well."""
        systems = verlet.systems
        self._prepare(systems)
        found: dict[int, str] = {}

        def tell(wrong: np.ndarray, say) -> None:
            for i in np.flatnonzero(wrong).tolist():
                found.setdefault(i, say(i))

        finite = verlet.finite()
        tell(~finite, lambda i: "NaN: energy, forces or positions are not finite")
        if not finite.all():
            return found
        self._check_pairs(systems, found)
        heat = systems.temperature()
        tell(heat > self._hottest, lambda i: f"spike: the temperature is {heat[i]:.0f} K")
        if self.start is not None:
            off = (verlet.total() - self.start) / systems.counts
            limit = self._limits.energy_eV_per_atom
            tell(
                np.abs(off) > limit,
                lambda i: f"spike: the total energy is {off[i] * 1000:+.0f} meV/atom from that at the start",
            )
        return found

    def count(self, systems: Systems) -> None:
        """Count the distances of now that the training never saw, up to FARTHEST."""
        if self._seen is None or not len(self._first):
            return
        distance = np.linalg.norm(systems.pos[self._first] - systems.pos[self._second], axis=1)
        within = distance < FARTHEST
        new = within & ~self._seen.seen[self._pair, bins_of(distance)]
        self.looked += np.bincount(self._molecule[within], minlength=len(self.looked))
        self.outside += np.bincount(self._molecule[new], minlength=len(self.outside))
        np.add.at(self.by_pair, self._pair[new], 1)

    def state(self) -> dict[str, np.ndarray]:
        """Return what a run that goes on from a file needs."""
        start = np.zeros(0) if self.start is None else self.start
        counts = {"guard_looked": self.looked, "guard_outside": self.outside, "guard_pairs": self.by_pair}
        return {"guard_start": start, **counts}

    def load(self, state) -> None:
        self.start = state["guard_start"] if len(state["guard_start"]) else None
        self.looked, self.outside = state["guard_looked"], state["guard_outside"]
        self.by_pair = state["guard_pairs"]

    def _prepare(self, systems: Systems) -> None:
        key = systems.molecule.tobytes() + systems.replica.tobytes()
        if key == self._of:
            return
        bonds, lengths, first, second = [], [], [], []
        self._reach = np.zeros(len(systems))
        for i, molecule in enumerate(systems.molecule.tolist()):
            atoms, offset = self._molecules[molecule], systems.ptr[i]
            pairs, pos = self._bonds[molecule], atoms.positions
            bonds.append(pairs + offset)
            lengths.append(np.linalg.norm(pos[pairs[:, 0]] - pos[pairs[:, 1]], axis=1))
            if len(atoms) <= MOST_ALL_PAIRS and not atoms.pbc.any():
                a, b = np.triu_indices(len(atoms), k=1)
                first.append(a + offset)
                second.append(b + offset)
            size = np.linalg.norm(pos - pos.mean(axis=0), axis=1).max()
            self._reach[i] = np.inf if atoms.pbc.any() else 2 * size + self._limits.fly_away_A
        self._bonded, self._lengths = np.concatenate(bonds), np.concatenate(lengths)
        empty = [np.zeros(0, np.int64)]
        self._first, self._second = np.concatenate(first + empty), np.concatenate(second + empty)
        owner = systems.system_of_atom
        self._owner, self._molecule = owner[self._first], systems.molecule[owner[self._first]]
        self._bond_owner = owner[self._bonded[:, 0]]
        self._pair = pair_of(systems.z[self._first], systems.z[self._second])
        radii = covalent_radii[systems.z]
        self._floor = OVERLAP * (radii[self._first] + radii[self._second])
        if self._seen is not None:
            known = self._seen.shortest[self._pair] - self._limits.closer_A
            self._floor = np.where(np.isfinite(known), known, self._floor)
        self._of = key

    def _check_pairs(self, systems: Systems, found: dict[int, str]) -> None:
        pos = systems.pos
        vectors = pos[self._bonded[:, 0]] - pos[self._bonded[:, 1]]
        length = np.sqrt(np.square(vectors).sum(axis=1))
        for k in np.flatnonzero(np.abs(length - self._lengths) > self._limits.bond_A).tolist():
            what = f"bond {self._named(systems, *self._bonded[k])} broke: {length[k]:.2f} Angstrom"
            found.setdefault(int(self._bond_owner[k]), f"{what}, {self._lengths[k]:.2f} at the start")
        distance = np.sqrt(np.square(pos[self._first] - pos[self._second]).sum(axis=1))
        for k in np.flatnonzero(distance < self._floor).tolist():
            what = f"{self._named(systems, self._first[k], self._second[k])} are {distance[k]:.2f} Angstrom apart"
            shortest = np.inf if self._seen is None else self._seen.shortest[self._pair[k]]
            than = f"the training saw {shortest:.2f} at least" if np.isfinite(shortest) else "atoms overlap"
            found.setdefault(int(self._owner[k]), f"closer than believed: {what}; {than}")
        far = np.sqrt(np.square(pos - systems.centre()[systems.system_of_atom]).sum(axis=1))
        over = far - self._reach[systems.system_of_atom]
        for atom in np.flatnonzero(over > 0).tolist():
            owner = int(systems.system_of_atom[atom])
            name = self._named(systems, atom)
            found.setdefault(owner, f"atom {name} flew away: {far[atom]:.1f} Angstrom from the centre of mass")

    def _named(self, systems: Systems, *atoms: int) -> str:
        owner = systems.system_of_atom[atoms[0]]
        return "-".join(f"{chemical_symbols[systems.z[i]]}{i - systems.ptr[owner]}" for i in atoms)
