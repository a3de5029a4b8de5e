"""Which distances and features a training saw, so that leaving them can be seen. The node side."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols

from hpc_kit.data.shards import Arrays

BIN = 0.05  # Angstrom
FARTHEST = 10.0
MOST = 20_000  # structures that are looked at, evenly over the set
MOST_SAMPLES = 300  # structures whose features are looked at
ELEMENTS = 128
_BINS = round(FARTHEST / BIN)


@dataclass
class Range:
    """The distances between pairs of elements in molecules up to FARTHEST: which bins were seen, and the shortest.

    seen: [ELEMENTS², _BINS] bool by pair_of, shortest [ELEMENTS²] Angstrom (inf: none); structures: how many were
    looked at; of: what they are, for people; samples: z [n] and pos [F, n, 3] of some of them.
    """

    of: str
    structures: int = 0
    seen: np.ndarray = field(default_factory=lambda: np.zeros((ELEMENTS**2, _BINS), bool))
    shortest: np.ndarray = field(default_factory=lambda: np.full(ELEMENTS**2, np.inf))
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, z: np.ndarray, pos: np.ndarray) -> None:
        """Learn from frames of one molecule: z [n], pos [F, n, 3] Angstrom."""
        first, second = np.triu_indices(len(z), k=1)
        pairs = pair_of(z[first], z[second])
        for piece in np.array_split(pos, max(1, len(pos) * len(first) // 1_000_000 + 1)):
            distance = np.linalg.norm(piece[:, first] - piece[:, second], axis=2)
            if not distance.size:
                continue
            np.minimum.at(self.shortest, pairs, distance.min(axis=0))
            self.seen[np.broadcast_to(pairs, distance.shape), bins_of(distance)] = True
        self.structures += len(pos)
        if sum(len(sample) for _, sample in self.samples) < MOST_SAMPLES:
            self.samples.append((z, evenly(pos, MOST_SAMPLES)))

    def described(self) -> list[str]:
        """Return the shortest distance of each pair of elements, in words."""
        found = []
        for pair in np.flatnonzero(np.isfinite(self.shortest)).tolist():
            a, b = divmod(pair, ELEMENTS)
            found.append(f"{chemical_symbols[a]}-{chemical_symbols[b]} {self.shortest[pair]:.2f}")
        return found


def evenly(frames: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the frames, from the first to the last."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))]


def pair_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return one number for a pair of atomic numbers, whichever comes first."""
    return np.minimum(a, b).astype(np.int64) * ELEMENTS + np.maximum(a, b)


def bins_of(distance: np.ndarray) -> np.ndarray:
    """Return the bins of distances in Angstrom; those beyond FARTHEST, and NaN, are in the last."""
    return np.minimum(np.nan_to_num(distance / BIN, nan=_BINS), _BINS - 1).astype(np.int64)


def range_of_set(arrays: Arrays, of: str) -> Range:
    """Return the range of a shard set's molecules; periodic structures are left out."""
    found = Range(of)
    chosen = np.unique(np.linspace(0, len(arrays.ids) - 1, min(MOST, len(arrays.ids))).astype(int))
    alike: dict[bytes, list[int]] = {}
    for i in chosen[~arrays.pbc[chosen].any(axis=1)].tolist():
        z = arrays.z[arrays.atom_ptr[i] : arrays.atom_ptr[i + 1]]
        alike.setdefault(z.tobytes(), []).append(i)
    for members in alike.values():
        spans = [slice(arrays.atom_ptr[i], arrays.atom_ptr[i + 1]) for i in members]
        found.add(arrays.z[spans[0]].astype(np.int64), np.stack([arrays.pos[span] for span in spans]).astype(float))
    return found


def range_of_frames(each: Iterable[tuple[np.ndarray, np.ndarray]], of: str) -> Range:
    """Return the range of frames: pairs of z [n] and pos [F, n, 3]."""
    found = Range(of)
    for z, pos in each:
        found.add(z, pos)
    return found
