"""Batches of graphs, cut from flat arrays without a loop over graphs.

Not for: which graphs belong together in which order (sampling.py), or getting them there (loader.py).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_kit.data.features import element_table
from hpc_kit.data.manifest import Manifest
from hpc_kit.data.shards import Arrays, add_edges, read_shard_set
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError


@dataclass
class GraphBatch:
    """Several graphs as one disconnected graph of N atoms, E edges, G graphs.

    z [N] int64; pos [N, 3] Angstrom; cell [G, 3, 3] Angstrom; src, dst [E] int64, sorted by dst; shift [E, 3]
    int8 cell vectors, None where no graph of the data set is periodic; atom_ptr, edge_ptr [G+1] int64; targets
    [G, T] float64 in the data set's units (a total energy has more digits than float32); forces [N, 3] eV/Angstrom
    or None. The vector of an edge is pos[src] + shift @ cell - pos[dst].
    """

    z: torch.Tensor
    pos: torch.Tensor
    cell: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    shift: torch.Tensor | None
    atom_ptr: torch.Tensor
    edge_ptr: torch.Tensor
    targets: torch.Tensor
    forces: torch.Tensor | None = None

    @property
    def graphs(self) -> int:
        return len(self.atom_ptr) - 1

    def graph_of_atom(self) -> torch.Tensor:
        """Return [N] int64: the graph each atom belongs to."""
        return torch.repeat_interleave(self.atom_ptr.diff(), output_size=len(self.z))

    def graph_of_edge(self) -> torch.Tensor:
        """Return [E] int64: the graph each edge belongs to."""
        return torch.repeat_interleave(self.edge_ptr.diff(), output_size=len(self.src))

    def edge_vectors(self) -> torch.Tensor:
        """Return [E, 3] Angstrom, from dst to src."""
        vectors = self.pos.index_select(0, self.src) - self.pos.index_select(0, self.dst)
        if self.shift is None:
            return vectors
        shift = self.shift.to(self.pos.dtype)
        return vectors + torch.einsum("ek,ekx->ex", shift, self.cell.index_select(0, self.graph_of_edge()))

    def to(self, device: torch.device | str) -> "GraphBatch":
        """Return the batch on `device`; copies from pinned memory do not block."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "GraphBatch":
        """Return the batch in page-locked memory, from which a GPU copies without waiting."""
        return self._each(lambda tensor: tensor.pin_memory())

    def to_pyg(self):
        """Return a torch_geometric Data: z, pos, edge_index ([src, dst]), cell, shift, y, batch, ptr and forces."""
        from torch_geometric.data import Data

        optional = {name: value for name in ("shift", "forces") if (value := getattr(self, name)) is not None}
        return Data(
            z=self.z,
            pos=self.pos,
            edge_index=torch.stack([self.src, self.dst]),
            cell=self.cell,
            y=self.targets,
            batch=self.graph_of_atom(),
            ptr=self.atom_ptr,
            **optional,
        )

    @classmethod
    def from_pyg(cls, data) -> "GraphBatch":
        """Return the batch that a torch_geometric Data or Batch with z, pos and edge_index describes.

        Edges are sorted by destination; without `cell` nothing is periodic, without `batch` it is one graph, without
        `y` the targets are [G, 0]. Raises ValueError where an edge joins two graphs.
        """
        order = torch.argsort(data.edge_index[1], stable=True)
        src, dst = data.edge_index[:, order]
        atoms = len(data.z)
        graph = torch.zeros(atoms, dtype=torch.int64) if data.get("batch") is None else data.batch
        if not torch.equal(graph[src], graph[dst]):
            raise ValueError("an edge joins atoms of different graphs")
        graphs = int(graph.max()) + 1
        shift, y, cell = data.get("shift"), data.get("y"), data.get("cell")
        return cls(
            z=data.z.long(),
            pos=data.pos,
            cell=torch.zeros(graphs, 3, 3, dtype=data.pos.dtype) if cell is None else cell.view(graphs, 3, 3),
            src=src,
            dst=dst,
            shift=None if shift is None else shift[order],
            atom_ptr=_offsets(torch.bincount(graph, minlength=graphs)),
            edge_ptr=_offsets(torch.bincount(graph[dst], minlength=graphs)),
            targets=torch.zeros(graphs, 0) if y is None else y.view(graphs, -1),
            forces=data.get("forces"),
        )

    def to_dgl(self):
        """Return (graph, line graph) as DGL's, batched: what upstream ALIGNN takes.

        Nodes carry `atomic_number`, `pos` and `atom_features` (CGCNN's, [N, 92]), edges `r` (the edge vector,
        Angstrom, from src to dst as upstream has it), edges of the line graph `h` (the cosine of the bond angle).
        """
        import dgl

        from hpc_kit.data.line_graph import angle_cosines, line_graph

        graph = dgl.graph((self.src, self.dst), num_nodes=len(self.z))
        graph.ndata["atomic_number"], graph.ndata["pos"] = self.z, self.pos
        graph.ndata["atom_features"] = _element_features().to(self.pos)[self.z]
        vectors = -self.edge_vectors()
        graph.edata["r"] = vectors
        graph.set_batch_num_nodes(self.atom_ptr.diff())
        graph.set_batch_num_edges(self.edge_ptr.diff())
        first, second = line_graph(self.src, self.dst, len(self.z))
        lines = dgl.graph((first, second), num_nodes=len(self.src))
        lines.ndata["r"] = vectors
        lines.edata["h"] = angle_cosines(vectors, first, second)
        lines.set_batch_num_nodes(self.edge_ptr.diff())
        lines.set_batch_num_edges(torch.bincount(self.graph_of_edge()[second], minlength=self.graphs))
        return graph, lines

    def _each(self, change) -> "GraphBatch":
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return GraphBatch(**{name: None if t is None else change(t) for name, t in tensors.items()})


@functools.cache
def _element_features() -> torch.Tensor:
    return torch.from_numpy(element_table())


class GraphStore:
    """Graphs in memory as flat tensors, from which batches are cut. ids [G] bytes; targets [G, T] in their units.

    The arrays may be mapped from a file that several processes share (copy-on-write); they are not written to.
    """

    def __init__(self, arrays: Arrays, targets: Sequence[str]):
        if arrays.src is None:
            raise ValueError("arrays without edges: add_edges comes first")
        self.ids = arrays.ids
        self.targets = np.stack([arrays.targets[name] for name in targets], axis=1)
        self.atoms_per_graph = np.diff(arrays.atom_ptr)
        self.edges_per_graph = np.diff(arrays.edge_ptr)
        self._targets = torch.from_numpy(self.targets)
        self._atom_ptr, self._edge_ptr = arrays.atom_ptr, arrays.edge_ptr
        names = ("z", "pos", "cell", "src", "dst")
        self._z, self._pos, self._cell, self._src, self._dst = (
            torch.from_numpy(getattr(arrays, name)) for name in names
        )
        self._forces = None if arrays.forces is None else torch.from_numpy(arrays.forces)
        # A fourth byte a row makes a shift one number to gather, five times faster than three.
        self._shift = None
        if arrays.shift is not None and arrays.pbc.any():
            padded = np.zeros((len(arrays.shift), 4), np.int8)
            padded[:, :3] = arrays.shift
            self._shift = torch.from_numpy(padded.view(np.int32).ravel())

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: np.ndarray) -> GraphBatch:
        """Return the graphs `index` ([G] int) as one batch, in that order."""
        atoms, atom_ptr, _ = _ranges(self._atom_ptr, index)
        edges, edge_ptr, edge_counts = _ranges(self._edge_ptr, index)
        first_atom = torch.from_numpy(np.repeat(atom_ptr[:-1], edge_counts))
        graphs, atoms, edges = (torch.from_numpy(numbers) for numbers in (np.asarray(index), atoms, edges))
        shift = None
        if self._shift is not None:
            shift = self._shift.index_select(0, edges).view(torch.int8).view(-1, 4)[:, :3]
        return GraphBatch(
            z=self._z.index_select(0, atoms).long(),
            pos=self._pos.index_select(0, atoms),
            cell=self._cell.index_select(0, graphs),
            src=first_atom + self._src.index_select(0, edges),
            dst=first_atom + self._dst.index_select(0, edges),
            shift=shift,
            atom_ptr=torch.from_numpy(atom_ptr),
            edge_ptr=torch.from_numpy(edge_ptr),
            targets=self._targets.index_select(0, graphs),
            forces=None if self._forces is None else self._forces.index_select(0, atoms),
        )


def read_with_edges(folder: Path, manifest: Manifest, graph: Graph, **which: Any) -> Arrays:
    """Read shards and see that they have the edges that `graph` asks for: those stored, or built here.

    `which` goes to read_shard_set: which shards and targets, and whether with names.

    Raises InputError where the set stores edges of other settings.
    """
    if reason := manifest.other_graph(graph.model_dump()):
        raise InputError(f"{folder}: {reason}")
    arrays = read_shard_set(folder, manifest, **which)
    if arrays.src is None:
        add_edges(arrays, graph)
    return arrays


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _ranges(ptr: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenate the ranges ptr[i]..ptr[i+1] for i in `index`; return positions, new offsets and counts."""
    start = ptr[index]
    counts = ptr[index + 1] - start
    new_ptr = np.zeros(len(index) + 1, np.int64)
    np.cumsum(counts, out=new_ptr[1:])
    positions = np.repeat(start - new_ptr[:-1], counts)
    positions += np.arange(len(positions))
    return positions, new_ptr, counts
