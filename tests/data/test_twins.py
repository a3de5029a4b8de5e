"""Equal bonds and angles beside plain loops."""

import numpy as np
import pytest
import torch
from some_graphs import batch_of, some_crystals, some_molecules

from hpc_kit.data.line_graph import angle_cosines, line_graph
from hpc_kit.data.twins import equal_angles, equal_lengths, reverse_edges
from hpc_kit.spec.data import Graph

GRAPHS = {
    "crystals, alignn": (some_crystals(), Graph(cutoff=8.0, max_neighbors=12, rule="alignn")),
    "crystals, radius": (some_crystals(), Graph(cutoff=4.0)),
    "crystals, nearest": (some_crystals(), Graph(cutoff=5.0, max_neighbors=5)),
    "molecules": (some_molecules(), Graph(cutoff=3.0)),
    "no edges": (some_molecules(), Graph(cutoff=0.5)),
}


@pytest.fixture(params=GRAPHS)
def batch(request):
    return batch_of(*GRAPHS[request.param])


def test_reverses_lead_back(batch):
    reverse = reverse_edges(batch.src, batch.dst, batch.shift, len(batch.z))
    shift = np.zeros((len(batch.src), 3), int) if batch.shift is None else batch.shift.numpy()
    edges = [
        (*ends, *cells) for *ends, cells in zip(batch.src.tolist(), batch.dst.tolist(), shift.tolist(), strict=True)
    ]
    count = {edge: edges.count(edge) for edge in edges}
    for number, (src, dst, *cells) in enumerate(edges):
        back = (dst, src, *(-cell for cell in cells))
        if reverse[number] >= 0:
            assert edges[reverse[number]] == back
            assert reverse[reverse[number]] == number
        else:
            assert count.get(back, 0) < count[edges[number]]


def test_twins_are_equal_and_all_there(batch):
    src, dst, atoms = batch.src, batch.dst, len(batch.z)
    vectors = batch.edge_vectors().double()
    reverse = reverse_edges(src, dst, batch.shift, atoms)
    bonds = equal_lengths(reverse)
    length = vectors.norm(dim=1)
    torch.testing.assert_close(length[bonds.rows][bonds.kind], length)
    assert torch.equal(torch.bincount(bonds.kind, minlength=len(bonds.rows)), bonds.repeats)
    assert len(bonds.rows) == len(src) - int((reverse >= 0).sum()) // 2

    first, second = line_graph(src, dst, atoms)
    angles, zero = equal_angles(src, dst, atoms, reverse, first, second)
    cosine = angle_cosines(vectors, first, second)
    torch.testing.assert_close(cosine[angles.rows][angles.kind], cosine, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cosine[angles.rows][zero], torch.ones(int(zero.sum())).double(), rtol=1e-5, atol=1e-5)
    keys = set()
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        back = (int(reverse[b]), int(reverse[a]))
        keys.add("zero" if back == (a, b) else min((a, b), back) if min(back) >= 0 else (a, b))
    assert len(angles.rows) == len(keys)
    assert int(angles.repeats.sum()) == len(first)
