"""CGCNN over a list and over a matrix of neighbours: equal to the authors' formula, blind to what must not matter."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from some_graphs import batch_of, some_crystals, some_molecules, stored_reference
from torch_geometric.nn import CGConv

from hpc_kit.models import cgcnn
from hpc_kit.models.cgcnn import CGCNN, from_upstream
from hpc_kit.models.cgcnn_matrix import CGCNNMatrix
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import CGCNN as Spec

REFERENCE = Path(__file__).parent.parent / "references" / "cgcnn.npz"
GRAPH = Graph(cutoff=3.2, max_neighbors=12)  # some atoms have 12 neighbours, some fewer
SPEC = Spec(atom_features=10, convolutions=3, hidden=14, hidden_layers=2)
BOTH = pytest.mark.parametrize("form", [CGCNN, CGCNNMatrix])


def make(form=CGCNN, graph: Graph = GRAPH) -> CGCNN:
    """Return a model in float64 whose normalisations have statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = form(SPEC, graph).double()
    model(in_float64(batch_of(some_crystals(), graph)))
    return model.eval()


def in_float64(batch):
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    return batch


def crystals(graph: Graph = GRAPH):
    return in_float64(batch_of(some_crystals(), graph))


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(cgcnn, "PIECE", 20)
    monkeypatch.setattr(cgcnn, "GROUP", 100)


@pytest.mark.parametrize(("prefix", "form"), [("list/", CGCNN), ("", CGCNNMatrix)])
def test_equals_the_authors_formula(prefix, form, small_pieces):
    stored, batch = stored_reference(REFERENCE)

    def under(part: str) -> dict[str, torch.Tensor]:
        names = [name for name in stored if name.startswith(part)]
        return from_upstream({name.removeprefix(part): torch.from_numpy(stored[name]) for name in names})

    model = form(SPEC, GRAPH)
    model.load_state_dict(under("weights/"))
    model.elements.copy_(torch.from_numpy(stored["table"]))
    output = model(batch)
    output.sum().backward()
    torch.testing.assert_close(output, torch.from_numpy(stored[f"{prefix}output"]), rtol=1e-5, atol=0)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = under(f"{prefix}gradient/")
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():  # a bias before a batch normalisation has none but for rounding
        largest = expected[name].abs().max() if ".full.bias" not in name else expected["output.bias"].abs().max()
        assert (gradient - expected[name]).abs().max() <= 1e-4 * largest, name
    state = model.state_dict()
    for name, value in under(f"{prefix}after/").items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    evaluated = torch.from_numpy(stored[f"{prefix}eval/output"])
    torch.testing.assert_close(model.eval()(batch), evaluated, rtol=1e-5, atol=0)


def test_convolutions_equal_torch_geometrics(small_pieces):
    """In evaluation the first normalisation is linear and goes into the weights of CGConv, which has only the second;
    the softplus around it all is done here."""
    model, batch = make(), crystals()
    edges = model.basis.edges(*model.pairs(batch), atoms=len(batch.z))
    features = SPEC.atom_features
    x = torch.randn(len(batch.z), features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = theirs = x.requires_grad_()
    for convolution in model.convolutions:
        peer = CGConv(features, edges.basis.shape[1], batch_norm=True).double().eval()
        norm = convolution.message_norm
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = convolution.full.weight * factor.unsqueeze(1)
        bias = (convolution.full.bias - norm.running_mean) * factor + norm.bias
        for linear, rows in ((peer.lin_f, slice(0, features)), (peer.lin_s, slice(features, None))):
            linear.load_state_dict({"weight": weight[rows], "bias": bias[rows]})
        peer.bn.load_state_dict(convolution.norm.state_dict())
        theirs = torch.nn.functional.softplus(peer(theirs, torch.stack([edges.src, edges.dst]), edges.basis))
        ours = convolution(ours, edges)
    torch.testing.assert_close(ours, theirs)
    (mine,), (reference,) = (torch.autograd.grad(output.sum(), x) for output in (ours, theirs))
    torch.testing.assert_close(mine, reference)


def test_with_as_many_neighbours_everywhere_list_and_matrix_are_the_same():
    graph = Graph(cutoff=6.0, max_neighbors=12)
    batch = crystals(graph)
    assert len(batch.src) == 12 * len(batch.z)
    torch.testing.assert_close(make(CGCNN, graph)(batch), make(CGCNNMatrix, graph)(batch))


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives_are_those_of_the_formula(form, training, small_pieces):
    """Derivatives of the output with respect to the positions, and of those with respect to the weights."""
    model, batch = make(form).train(training), in_float64(batch_of(some_crystals()[:3], GRAPH))
    batch.pos.requires_grad_()

    def slope(pos: torch.Tensor) -> torch.Tensor:
        batch.pos = pos
        return torch.autograd.grad(model(batch).sum(), pos, create_graph=True)[0]

    pos, step = batch.pos, 1e-5
    direction = torch.randn(pos.shape, dtype=pos.dtype, generator=torch.Generator().manual_seed(2))
    moved = []
    for sign in (1, -1):
        batch.pos = (pos + sign * step * direction).detach()
        moved.append(model(batch).sum())
    expected = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close((slope(pos) * direction).sum(), expected, rtol=1e-6, atol=1e-9)
    weight = model.convolutions[0].full.weight
    found = torch.autograd.grad((slope(pos) * direction).sum(), weight)[0]
    along = torch.randn(weight.shape, dtype=pos.dtype, generator=torch.Generator().manual_seed(3))
    start, sides = weight.detach().clone(), []
    for sign in (1, -1):
        weight.data = start + sign * step * along
        sides.append((slope(pos) * direction).sum())
    weight.data = start
    torch.testing.assert_close((found * along).sum(), (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-9)


@BOTH
def test_rotation_and_translation_change_nothing(form):
    model, batch = make(form), crystals()
    moved = copy.copy(batch)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    moved.pos, moved.cell = batch.pos @ rotation + torch.tensor([1.0, -2.0, 3.0]), batch.cell @ rotation
    torch.testing.assert_close(model(moved), model(batch))


def test_order_of_atoms_changes_nothing():
    model, atoms = make(), some_crystals()[3]
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = (model(in_float64(batch_of([a], GRAPH))) for a in (atoms, atoms[order]))
    torch.testing.assert_close(after, before)


@BOTH
def test_a_supercell_gives_the_same_prediction(form):
    """For the matrix form where nothing is padded: padding stands for the first atom of the cell, whichever it is."""
    graph = Graph(cutoff=6.0, max_neighbors=12)
    model, atoms = make(form, graph), some_crystals()[3]
    cell, supercell = (model(in_float64(batch_of([a], graph))) for a in (atoms, atoms.repeat((2, 1, 1))))
    torch.testing.assert_close(supercell, cell, rtol=1e-6, atol=1e-6)


@BOTH
def test_batch_equals_one_by_one(form):
    model = make(form)
    alone = torch.cat([model(in_float64(batch_of([a], GRAPH))) for a in some_crystals()])
    torch.testing.assert_close(model(crystals()), alone)


@BOTH
def test_a_batch_of_nothing_gives_nothing_and_leaves_the_statistics(form):
    model = make(form)
    batch = crystals()
    empty = copy.copy(batch)
    for name in ("z", "pos", "cell", "src", "dst", "shift", "targets"):
        setattr(empty, name, getattr(batch, name)[:0])
    empty.atom_ptr = empty.edge_ptr = torch.zeros(1, dtype=torch.int64)
    before = copy.deepcopy(model.state_dict())
    output = model.train()(empty)
    output.sum().backward()
    assert output.shape == (0, 1)
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, before[name])


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_atoms_without_neighbours_are_predicted(form, training):
    graph = Graph(cutoff=0.5, max_neighbors=12)
    model = make(form, Graph(cutoff=0.5, max_neighbors=12)).train(training)
    output = model(in_float64(batch_of(some_molecules(), graph)))
    assert torch.isfinite(output).all()


def test_the_embedding_is_an_atoms_and_feeds_the_output():
    model, batch = make(), crystals()
    features = model.embed(batch)
    assert features.shape == (len(batch.z), SPEC.atom_features)
    h = torch.stack([part.mean(0) for part in features.split(batch.atom_ptr.diff().tolist())])
    for layer in (None, model.pooled, *model.dense):
        h = torch.nn.functional.softplus(h if layer is None else layer(h))
    torch.testing.assert_close(model(batch), model.output(h))


def test_an_element_without_features_is_not_a_number():
    model, batch = make(), crystals()
    batch.z = torch.where(batch.z == 38, 110, batch.z)  # strontium becomes darmstadtium
    alone = torch.isnan(model(batch)).squeeze(1)
    assert alone.tolist() == [False, False, False, True, False, False]


def test_bfloat16_autocast_is_near_float32():
    model, batch = make().float(), batch_of(some_crystals(), GRAPH)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch)
        rough.float().sum().backward()
    torch.testing.assert_close(rough.float(), model(batch), rtol=0.03, atol=0.03)


def test_the_matrix_needs_to_know_how_many_neighbours():
    with pytest.raises(InputError, match="max_neighbors"):
        CGCNNMatrix(SPEC, Graph(cutoff=4.0))


def test_more_neighbours_than_the_matrix_holds_are_refused():
    model = CGCNNMatrix(SPEC, GRAPH)
    with pytest.raises(InputError, match=r"has 52 neighbours, data.graph.max_neighbors is 12"):
        model(batch_of(some_crystals(), Graph(cutoff=5.0)))
