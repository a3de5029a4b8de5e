"""Products over edges: equal to what is written out plainly, and their derivatives to finite differences."""

from functools import partial

import pytest
import torch
from some_graphs import batch_of, some_crystals, some_molecules

from hpc_kit.models.edge_sums import PairedEdges, head_products, head_sums, silu_parts, vector_sums
from hpc_kit.models.pairs import has_reverses
from hpc_kit.spec.data import Graph

HEADS = 2


@pytest.fixture(params=[Graph(cutoff=1.2), Graph(cutoff=1.2, max_neighbors=1)], ids=["both ways", "one way"])
def edges(request) -> PairedEdges:
    return PairedEdges(batch_of(some_molecules()[:2], request.param), has_reverses(request.param))


def draw(edges: PairedEdges) -> dict[str, torch.Tensor]:
    """Return a factor of each kind: of atoms, of pairs, of edges."""
    torch.manual_seed(0)
    atoms, all_edges, pairs = int(edges.dst.max()) + 1, len(edges.src), len(edges.vectors)
    shapes = {"q": (atoms, 4), "k": (atoms, 4), "w": (3, atoms, 4), "d": (pairs, 4), "c": (pairs, 4)}
    shapes |= {"a": (all_edges, HEADS), "u": (all_edges, 3)}
    return {name: torch.randn(*shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def test_sums_are_what_they_say(edges):
    x, src, dst = draw(edges), edges.src, edges.dst
    d, c = edges.turned(x["d"]), edges.turned(x["c"])
    plain = (x["q"][dst] * x["k"][src] * d).view(-1, HEADS, 2).sum(2)
    torch.testing.assert_close(head_products(x["q"], x["k"], x["d"], edges, HEADS), plain)
    messages = (x["a"].unsqueeze(2) * (x["k"][src] * d).view(-1, HEADS, 2)).flatten(1)
    plain = torch.zeros_like(x["k"]).index_add(0, dst, messages)
    torch.testing.assert_close(head_sums(x["a"], x["k"], x["d"], edges), plain)
    messages = x["w"][:, src] * d + x["k"][src] * c * x["u"].T.unsqueeze(2)
    plain = torch.zeros_like(x["w"]).index_add(1, dst, messages)
    torch.testing.assert_close(vector_sums(x["w"], x["d"], x["k"], x["c"], x["u"], edges), plain)


SUMS = {
    "products": (partial(head_products, heads=HEADS), "qkd"),
    "sums": (head_sums, "akd"),
    "vectors": (vector_sums, "wdkcu"),
    "vectors from none": (partial(vector_sums, None, None), "kcu"),
}


@pytest.mark.parametrize("which", SUMS)
def test_first_and_second_derivatives(edges, which):
    function, names = SUMS[which]
    factors = [draw(edges)[name] for name in names]
    assert torch.autograd.gradcheck(lambda *given: function(*given, edges=edges), factors)
    assert torch.autograd.gradgradcheck(lambda *given: function(*given, edges=edges), factors)


@pytest.mark.parametrize("width", [6, 2])
def test_silu(width):
    z = torch.linspace(-3.0, 3.0, 12, dtype=torch.float64).view(2, 6).requires_grad_()
    torch.testing.assert_close(torch.cat(silu_parts(z, width), 1), torch.nn.functional.silu(z))
    assert torch.autograd.gradcheck(lambda z: silu_parts(z, width), (z,))
    assert torch.autograd.gradgradcheck(lambda z: silu_parts(z, width), (z,))


@pytest.mark.parametrize(
    ("structures", "graph"),
    [
        (some_molecules, Graph(cutoff=5.0)),
        (some_crystals, Graph(cutoff=5.0)),
        (some_crystals, Graph(rule="alignn", max_neighbors=12)),
    ],
)
def test_the_second_half_of_the_edges_are_the_reverses_of_the_first(structures, graph):
    batch = batch_of(structures(), graph)
    edges, pairs = PairedEdges(batch, reverses=True), len(batch.src) // 2
    assert torch.equal(edges.src[:pairs], edges.dst[pairs:]) and torch.equal(edges.dst[:pairs], edges.src[pairs:])

    def rows(*columns: torch.Tensor) -> list[tuple]:
        return sorted(tuple(row) for row in torch.cat(columns, 1).double().round(decimals=3).add(0.0).tolist())

    given = rows(batch.src[:, None], batch.dst[:, None], batch.edge_vectors())
    assert rows(edges.src[:, None], edges.dst[:, None], edges.turned(edges.vectors, -1.0)) == given
