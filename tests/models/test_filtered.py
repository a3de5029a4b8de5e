"""Pairs of neighbours: each once, whatever the graph, and sums over them equal to sums over edges."""

import numpy as np
import pytest
import torch
from ase import Atoms
from invariances import NEAREST, RADIUS, batch64, no_graphs
from some_graphs import some_crystals, some_molecules

from hpc_kit.models.filtered import filtered_sum
from hpc_kit.models.pairs import distances, has_reverses, pairs_of
from hpc_kit.spec.data import Graph

ALIGNN = Graph(cutoff=8.0, max_neighbors=12, rule="alignn")
CASES = {
    "molecules": (some_molecules(), RADIUS),
    "crystals": (some_crystals(), RADIUS),
    "crystals, nearest": (some_crystals(), NEAREST),
    "crystals, alignn": (some_crystals(), ALIGNN),
}


@pytest.mark.parametrize("case", CASES)
def test_sum_over_pairs_equals_sum_over_edges_with_all_derivatives(case):
    structures, graph = CASES[case]
    batch = batch64(structures, graph)
    pairs = pairs_of(batch, has_reverses(graph))
    assert len(pairs.edge) == len(batch.src) // (2 if has_reverses(graph) else 1)
    x = torch.randn(len(batch.z), 3, dtype=torch.float64, requires_grad=True)
    batch.pos.requires_grad_()

    def weight(distance: torch.Tensor) -> torch.Tensor:
        return torch.sin(distance).unsqueeze(1) * torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)

    ours = filtered_sum(x, weight(distances(batch, pairs)), pairs)
    messages = x[batch.src] * weight(batch.edge_vectors().norm(dim=-1))
    theirs = torch.zeros_like(x).index_add(0, batch.dst, messages)
    torch.testing.assert_close(ours, theirs)
    first = [torch.autograd.grad(out.pow(3).sum(), [x, batch.pos], create_graph=True) for out in (ours, theirs)]
    torch.testing.assert_close(*first)
    second = [torch.autograd.grad(sum(g.square().sum() for g in gs), [x, batch.pos]) for gs in first]
    torch.testing.assert_close(*second)


def test_filtered_sum_can_be_differentiated_twice():
    batch = batch64(some_molecules()[:1])
    for reverses in (True, False):
        pairs = pairs_of(batch, reverses)
        x = torch.randn(len(batch.z), 2, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(len(pairs.edge), 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda x, w, p=pairs: filtered_sum(x, w, p), (x, weight))


def test_random_crystals_have_all_reverses():
    generator = np.random.default_rng(0)

    def crystal() -> Atoms:
        place, cell = generator.random((5, 3)), generator.normal(0, 3, (3, 3))
        return Atoms(numbers=[6] * 5, scaled_positions=place, cell=cell, pbc=True)

    structures = [crystal() for _ in range(20)]
    batch = batch64(structures)
    assert 2 * len(pairs_of(batch, True).edge) == len(batch.src)


def test_an_edge_without_its_reverse_is_refused():
    for structures in (some_molecules(), some_crystals()):
        batch = batch64(structures)
        edge = int((batch.src != batch.dst).nonzero()[0])
        batch.src[edge], batch.dst[edge] = batch.dst[edge].clone(), batch.src[edge].clone()
        with pytest.raises(RuntimeError, match="lacks its reverse"):
            pairs_of(batch, True)


def test_no_graphs_have_no_pairs():
    for periodic in (False, True):
        assert len(pairs_of(no_graphs(periodic), True).edge) == 0
