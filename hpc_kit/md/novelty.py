"""How many features of a model's last layer lie outside of what the training gave it. The node side."""

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from hpc_kit.md.forces import ModelForces
from hpc_kit.md.systems import Systems
from hpc_kit.md.training import Range, evenly

MOST = 200  # frames of a run that are looked at
_AT_ONCE = 50


class FeatureRange:
    """The least and the largest of each feature, for each element, over the samples of a training."""

    def __init__(self, forces: ModelForces, seen: Range):
        self._forces = forces
        self._least: dict[int, np.ndarray] = {}
        self._most: dict[int, np.ndarray] = {}
        for z, pos in seen.samples:
            for features in _features(forces, Atoms(z, pos[0]), pos):
                for element in np.unique(z).tolist():
                    mine = features[:, z == element].reshape(-1, features.shape[-1])
                    least, most = mine.min(axis=0), mine.max(axis=0)
                    self._least[element] = np.minimum(self._least.get(element, least), least)
                    self._most[element] = np.maximum(self._most.get(element, most), most)

    def outside(self, start: Atoms, pos: np.ndarray) -> float | None:
        """Return which share of the features of all atoms in frames pos [F, n, 3] lies outside; None without frames.
        All features of an element that the training never saw do."""
        count = total = 0
        for features in _features(self._forces, start, evenly(pos, MOST) if len(pos) else pos):
            for element in np.unique(start.numbers).tolist():
                mine = features[:, start.numbers == element]
                total += mine.size
                if element in self._least:
                    count += int(((mine < self._least[element]) | (mine > self._most[element])).sum())
                else:
                    count += mine.size
        return count / total if total else None


def _features(forces: ModelForces, start: Atoms, pos: np.ndarray) -> Iterator[np.ndarray]:
    """Yield [frames, n, F] for some frames at a time."""
    for first in range(0, len(pos), _AT_ONCE):
        part = pos[first : first + _AT_ONCE]
        systems = Systems.of([start], len(part))
        systems.pos = np.ascontiguousarray(part, dtype=np.float64).reshape(-1, 3)
        yield forces.features(systems).reshape(len(part), len(start), -1)
