"""Batches: cut from flat arrays as if graph by graph, in an order that depends on seed and epoch alone."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hpc_kit.data.batches import GraphStore, epoch_order
from hpc_kit.data.graphs import radius_graph
from hpc_kit.data.shards import pack
from hpc_kit.data.structures import Structure

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
    return GraphStore(pack(STRUCTURES, ["e"]), "e", CUTOFF)


def test_batch_equals_graphs_put_together_one_by_one(store):
    batch = store.batch(torch.tensor([2, 1, 0]))
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
    batch = store.batch(torch.arange(4))
    assert len(batch.src) > 0 and float(batch.edge_vectors().norm(dim=1).max()) <= CUTOFF


def test_graph_of_atom_counts_each_graphs_atoms(store):
    batch = store.batch(torch.tensor([1, 0]))
    assert batch.graph_of_atom().tolist() == [0] + [1] * 9


def test_batches_hold_every_graph_once_and_the_rest_in_a_smaller_last_one(store):
    sizes = [batch.graphs for batch in store.batches(np.array([0, 1, 2]), 2)]
    assert sizes == [2, 1]


def test_order_is_a_pure_function_of_seed_and_epoch():
    index = np.arange(50)
    np.testing.assert_array_equal(epoch_order(index, 1, 2), epoch_order(index, 1, 2))
    orders = {tuple(epoch_order(index, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == index.tolist() for order in orders)
