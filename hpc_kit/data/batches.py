"""From a shard set in memory to batches of graphs; the order is a pure function of (seed, epoch).

Not for: which graphs belong to which part (splits.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from hpc_kit.data.graphs import radius_graph
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import Arrays, read_shard_set


@dataclass
class GraphBatch:
    """Several graphs as one disconnected graph of N atoms, E edges, G graphs.

    z [N] int64; pos [N, 3] Angstrom; cell [G, 3, 3] Angstrom; src, dst [E] int64, sorted by dst; shift [E, 3]
    cell vectors; atom_ptr, edge_ptr [G+1] int64; targets [G, T] in the data set's units. The vector of an edge
    is pos[src] + shift @ cell - pos[dst].
    """

    z: torch.Tensor
    pos: torch.Tensor
    cell: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    shift: torch.Tensor
    atom_ptr: torch.Tensor
    edge_ptr: torch.Tensor
    targets: torch.Tensor

    @property
    def graphs(self) -> int:
        return len(self.atom_ptr) - 1

    def graph_of_atom(self) -> torch.Tensor:
        """Return [N] int64: the graph each atom belongs to."""
        return torch.repeat_interleave(self.atom_ptr.diff(), output_size=len(self.z))

    def edge_vectors(self) -> torch.Tensor:
        """Return [E, 3] Angstrom, from dst to src."""
        vectors = self.pos.index_select(0, self.src) - self.pos.index_select(0, self.dst)
        graph_of_edge = torch.repeat_interleave(self.edge_ptr.diff(), output_size=len(self.src))
        shift = self.shift.to(self.pos.dtype)
        return vectors + torch.einsum("ek,ekx->ex", shift, self.cell.index_select(0, graph_of_edge))

    def to(self, device: torch.device | str) -> "GraphBatch":
        """Return the batch on `device`; copies from pinned memory do not block."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return GraphBatch(**moved)


class GraphStore:
    """A shard set in memory, as flat tensors with edges, from which batches are cut without a loop over graphs."""

    def __init__(self, arrays: Arrays, target: str, cutoff: float):
        self.ids = arrays.ids
        self.target = arrays.targets[target]
        self.atoms_per_graph = np.diff(arrays.atom_ptr)
        self._z = torch.from_numpy(arrays.z.astype(np.int64))
        self._pos = torch.from_numpy(arrays.pos)
        self._cell = torch.from_numpy(arrays.cell)
        self._atom_ptr = torch.from_numpy(arrays.atom_ptr)
        self._targets = torch.from_numpy(self.target.astype(np.float32)).unsqueeze(1)
        src, dst, shift, counts = _edges(arrays, cutoff)
        self._src, self._dst, self._shift = map(torch.from_numpy, (src, dst, shift))
        self._edge_ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: torch.Tensor) -> GraphBatch:
        """Return the graphs `index` ([G] int64) as one batch, in that order."""
        atoms, atom_ptr = _ranges(self._atom_ptr, index)
        edges, edge_ptr = _ranges(self._edge_ptr, index)
        first_atom = torch.repeat_interleave(atom_ptr[:-1], edge_ptr.diff(), output_size=len(edges))
        return GraphBatch(
            z=self._z[atoms],
            pos=self._pos[atoms],
            cell=self._cell[index],
            src=self._src[edges] + first_atom,
            dst=self._dst[edges] + first_atom,
            shift=self._shift[edges],
            atom_ptr=atom_ptr,
            edge_ptr=edge_ptr,
            targets=self._targets[index],
        )

    def batches(self, index: np.ndarray, size: int) -> Iterator[GraphBatch]:
        """Yield the graphs `index` in order, `size` at a time, the last batch with what remains."""
        for part in torch.from_numpy(index).split(size):
            yield self.batch(part)


def open_store(folder: Path, target: str, cutoff: float) -> GraphStore:
    """Read the shard set in `folder` into memory. Raises InputError where it is damaged or foreign."""
    return GraphStore(read_shard_set(folder, read_manifest(folder)), target, cutoff)


def epoch_order(index: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return `index` in the order of `epoch`: a pure function of the arguments."""
    return index[np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(index))]


def _ranges(ptr: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Concatenate the ranges ptr[i]..ptr[i+1] for i in `index`; return the positions and the new offsets."""
    counts = ptr[index + 1] - ptr[index]
    new_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(new_ptr[-1])
    start = torch.repeat_interleave(ptr[index] - new_ptr[:-1], counts, output_size=total)
    return torch.arange(total) + start, new_ptr


def _edges(arrays: Arrays, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Build the edges of every graph; src and dst count from the graph's first atom."""
    parts = []
    for start, end, cell, pbc in zip(arrays.atom_ptr[:-1], arrays.atom_ptr[1:], arrays.cell, arrays.pbc, strict=True):
        parts.append(radius_graph(arrays.pos[start:end], cell, pbc, cutoff))
    src, dst, shift = (np.concatenate(column) for column in zip(*parts, strict=True))
    counts = np.array([len(part[0]) for part in parts])
    return src, dst, shift.astype(np.int8), counts
