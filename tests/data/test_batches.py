"""Batches: cut from flat arrays as if graph by graph, in an order that depends on seed and epoch alone."""

import importlib.util

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.graphs import radius_graph
from hpc_kit.data.shards import pack
from hpc_kit.data.structures import Structure
from hpc_kit.spec.data import Graph

CUTOFF = 4.0


def structure(name: str, atoms, energy: float) -> Structure:
    return Structure(name, atoms.numbers, atoms.positions, {"e": energy}, atoms.cell.array, np.array(atoms.pbc))


STRUCTURES = [
    structure("ethanol", molecule("CH3CH2OH"), 1.0),
    structure("helium", Atoms("He"), 2.0),  # no edges
    structure("salt", bulk("NaCl", "rocksalt", a=5.64), 3.0),
    structure("benzene", molecule("C6H6"), 4.0),
]


@pytest.fixture(scope="module")
def store() -> GraphStore:
    return GraphStore(pack(STRUCTURES, ["e"], Graph(cutoff=CUTOFF)), ["e"])


def test_batch_equals_graphs_put_together_one_by_one(store):
    batch = store.batch(np.array([2, 1, 0]))
    vectors, first = [], 0
    for i, number in enumerate([2, 1, 0]):
        s = STRUCTURES[number]
        src, dst, shift = radius_graph(s.pos.astype(np.float32), s.cell.astype(np.float32), s.pbc, CUTOFF)
        edges = slice(batch.edge_ptr[i], batch.edge_ptr[i + 1])
        assert batch.src[edges].tolist() == (src + first).tolist()
        assert batch.dst[edges].tolist() == (dst + first).tolist()
        vectors.append(s.pos[src] + shift @ s.cell - s.pos[dst])
        first += len(s.z)
    assert batch.targets.squeeze(1).tolist() == [3.0, 2.0, 1.0]
    torch.testing.assert_close(
        batch.edge_vectors(), torch.tensor(np.concatenate(vectors), dtype=torch.float32), atol=1e-5, rtol=0
    )


def test_every_edge_is_shorter_than_the_cutoff(store):
    batch = store.batch(np.arange(4))
    assert len(batch.src) > 0 and float(batch.edge_vectors().norm(dim=1).max()) <= CUTOFF


def test_graph_of_atom_counts_each_graphs_atoms(store):
    batch = store.batch(np.array([1, 0]))
    assert batch.graph_of_atom().tolist() == [0] + [1] * 9


def test_molecules_carry_no_shifts_and_have_the_same_vectors():
    molecules = [STRUCTURES[0], STRUCTURES[3]]
    batch = GraphStore(pack(molecules, ["e"], Graph(cutoff=CUTOFF)), ["e"]).batch(np.array([0, 1]))
    assert batch.shift is None
    torch.testing.assert_close(batch.edge_vectors(), batch.pos[batch.src] - batch.pos[batch.dst])


def test_pyg_and_back(store):
    batch = store.batch(np.array([2, 0, 3]))
    back = GraphBatch.from_pyg(batch.to_pyg())
    for name in ("z", "pos", "cell", "src", "dst", "shift", "atom_ptr", "edge_ptr", "targets"):
        assert torch.equal(getattr(back, name), getattr(batch, name)), name


def test_edges_of_a_foreign_pyg_batch_are_sorted(store):
    data = store.batch(np.array([0, 3])).to_pyg()
    turned = data.clone()
    turned.edge_index, turned.shift = data.edge_index.flip(1), data.shift.flip(0)
    batch = GraphBatch.from_pyg(turned)
    assert (batch.dst.diff() >= 0).all()
    expected = (data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]).norm(dim=1).sort().values
    torch.testing.assert_close(batch.edge_vectors().norm(dim=1).sort().values, expected)


def test_edge_between_two_graphs_is_refused(store):
    data = store.batch(np.array([0, 3])).to_pyg()
    data.edge_index[0, 0] = len(data.z) - 1
    with pytest.raises(ValueError, match="different graphs"):
        GraphBatch.from_pyg(data)


dgl = pytest.mark.skipif(
    importlib.util.find_spec("dgl") is None, reason="DGL is not installed: it needs torch 2.2.1, see docs/data.md"
)


@dgl
def test_dgl_graph_and_line_graph():
    batch = complete_graphs(9, 12)
    graph, lines = batch.to_dgl()
    theirs = graph.line_graph(shared=True)
    assert graph.batch_size == 2 and graph.batch_num_nodes().tolist() == [9, 12]
    ours, expected = (set(zip(*(e.tolist() for e in g.edges()), strict=True)) for g in (lines, theirs))
    assert ours == expected and lines.num_edges() == theirs.num_edges()
    torch.testing.assert_close(graph.edata["r"], batch.pos[batch.dst] - batch.pos[batch.src])
    assert graph.ndata["atom_features"].shape == (21, 92)


def complete_graphs(*sizes: int) -> GraphBatch:
    """Return graphs of so many atoms at random places, each atom joined to all others."""
    pairs = [[(i, j) for j in range(n) for i in range(n) if i != j] for n in sizes]
    starts = np.cumsum([0, *sizes])
    src, dst = np.concatenate([np.array(p) + start for p, start in zip(pairs, starts, strict=False)]).T
    return GraphBatch(
        z=torch.ones(sum(sizes), dtype=torch.int64),
        pos=torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0)),
        cell=torch.zeros(len(sizes), 3, 3),
        src=torch.from_numpy(src),
        dst=torch.from_numpy(dst),
        shift=None,
        atom_ptr=torch.from_numpy(starts),
        edge_ptr=torch.tensor([0, *np.cumsum([len(p) for p in pairs])]),
        targets=torch.zeros(len(sizes), 1),
    )
