"""Every model in two parts: forward is head(embed), and the features are those of atoms, whoever looks at them."""

import sys

import numpy as np
import pytest
import torch
from invariances import NEAREST, RADIUS, batch64, no_graphs
from small_models import MODELS, TARGETS, made, structures
from some_graphs import some_molecules

from hpc_kit.models import _MODELS, build_model
from hpc_kit.models.compiling import compiled
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec import models
from hpc_kit.spec.errors import InputError

EACH = pytest.mark.parametrize("name", MODELS)


def features_of(model: GraphModel, batch) -> torch.Tensor:
    return model.embed(batch).detach().requires_grad_()


def test_all_models_are_here():
    assert {spec.name for spec, _, _ in MODELS.values()} == set(_MODELS)


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_head_of_embed_to_the_last_bit(name, training):
    model, batch = made(name).train(training), batch64(structures(name), NEAREST)
    embed, head = model.parts(batch)
    features = embed(batch)
    assert features.shape == (len(batch.z), MODELS[name][1])
    whole = model(batch)
    assert whole.shape == (batch.graphs, TARGETS)
    assert torch.equal(head(features, batch), whole)


def check_compiled(name: str, backend: str) -> None:
    """Compare output and gradients of a compiled model; `backend` says how far compiling goes."""
    model, batch = made(name).train(), batch64(structures(name), NEAREST)

    def output_and_gradients(run):
        output = run(batch)
        return output, torch.autograd.grad(output.square().sum(), list(model.parameters()))

    expected = output_and_gradients(model)
    torch._dynamo.reset()
    torch.testing.assert_close(output_and_gradients(compiled(model, backend=backend)), expected)


def test_traced_model_gives_the_same():
    """What torch.compile makes of the two parts, run by torch as it is: the quick half of compiling."""
    check_compiled("schnet", "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if "mean" not in name])
def test_compiled_model_gives_the_same(name):
    check_compiled(name, "aot_eager")


@EACH
@pytest.mark.parametrize("periodic", [False, True])
def test_no_graphs(name, periodic):
    model, nothing = made(name), no_graphs(periodic and "electrostatics" not in name)
    features = model.embed(nothing)
    assert features.shape == (0, MODELS[name][1])
    assert model.head(features, nothing).shape == (0, TARGETS)


@EACH
def test_features_of_an_atom_do_not_change_with_motion_nor_its_place_in_the_list(name):
    generator = np.random.default_rng(1)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    model, before = made(name), structures(name)
    moved, order, seen = [], [], 0
    for atoms in before:
        new_order = generator.permutation(len(atoms))
        if name == "cgcnn_matrix":  # padding stands for the first atom
            new_order = np.concatenate([[0], 1 + generator.permutation(len(atoms) - 1)])
        order += [seen + old for old in new_order]
        seen += len(atoms)
        atoms = atoms.copy()
        atoms.positions = atoms.positions @ rotation + [1.0, -2.0, 3.0]
        atoms.cell = np.asarray(atoms.cell) @ rotation
        moved.append(atoms[new_order])
    expected = model.embed(batch64(before, NEAREST))[order]
    assert expected.std(0).min() > 1e-6  # they do differ between atoms
    torch.testing.assert_close(model.embed(batch64(moved, NEAREST)), expected, rtol=2e-5, atol=2e-5)


@EACH
def test_head_sees_one_graph_at_a_time(name):
    """So the gradient of the sum over a batch is the gradient of each graph, and all atoms have one."""
    model, batch = made(name), batch64(structures(name), NEAREST)
    features = features_of(model, batch)
    output = model.head(features, batch)[:, 0]
    (together,) = torch.autograd.grad(output.sum(), features, retain_graph=True)
    assert together.isfinite().all() and together.any(dim=1).all()
    for number, one in enumerate(output):
        (alone,) = torch.autograd.grad(one, features, retain_graph=True)
        torch.testing.assert_close(alone, together * (batch.graph_of_atom() == number).unsqueeze(1))


@EACH
def test_contributions_of_atoms_add_up_where_the_head_is_linear(name):
    """Features times the output's gradient, summed over atoms, plus what the head makes of nothing."""
    model, batch = made(name), batch64(structures(name), NEAREST)
    features = features_of(model, batch)
    output, rest = model.head(features, batch), model.head(torch.zeros_like(features), batch)
    for number in range(TARGETS):
        (gradient,) = torch.autograd.grad(output[:, number].sum(), features, retain_graph=True)
        of_atoms = (gradient * features).sum(1)
        found = rest[:, number].index_add(0, batch.graph_of_atom(), of_atoms)
        exact = torch.allclose(found, output[:, number], rtol=1e-11, atol=1e-11)
        assert exact == model.linear_head == MODELS[name][2]


OWN = """
import torch

class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.drop, self.last = torch.nn.Embedding(100, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)
    def embed(self, data):
        return self.drop(self.table(data.z))
    def head(self, features, data):
        return self.last(features).new_zeros(len(data.ptr) - 1, 1).index_add(0, data.batch, self.last(features))[:, 0]
    def forward(self, data):
        return self.head(self.embed(data), data)

class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Parts()
    def forward(self, data):
        return self.inner(data)

class NoHead(Whole):
    embed = Parts.embed

class Other(Parts):
    def forward(self, data):
        return 1.01 * super().forward(data)

class OfGraphs(Parts):
    def embed(self, data):
        return data.ptr[1:, None]
    def forward(self, data):
        return self.head(Parts.embed(self, data), data)

class OfAtoms(Parts):
    def head(self, features, data):
        return self.last(features)
    def forward(self, data):
        return Parts.head(self, self.embed(data), data)

class OneArgument(Parts):
    def head(self, features):
        return features
    def forward(self, data):
        return Parts.head(self, self.embed(data), data)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a maker of own modules by their class."""
    (tmp_path / "modules_in_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "modules_in_parts", raising=False)
    return lambda name: build_model(models.Foreign(**{"import": f"modules_in_parts:{name}"}), RADIUS).double()


def test_own_module_offers_its_parts_and_stays_in_the_mode_it_was(own):
    model, batch = own("Parts"), batch64(some_molecules())
    model.inner.drop.train()
    model.inner.table.eval()
    embed, head = model.parts(batch)
    assert (model.training, model.inner.drop.training, model.inner.table.training) == (True, True, False)
    model.eval()
    features = embed(batch)
    assert features.shape == (len(batch.z), 4)
    assert torch.equal(head(features, batch), model(batch))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Whole", r"modules_in_parts:Whole: has no embed and no head, .* Add embed\(batch\) -> \[atoms, features\]"),
        ("NoHead", r"has no head, which .*docs/training\.md"),
        (
            "Other",
            r"head\(embed\(batch\), batch\) differs by [\d.]+ from what forward\(batch\) returns\. Let forward",
        ),
        ("OfGraphs", r"embed must return .* \[40, any number\] \(atoms, features\); it returned shape \[6, 1\]"),
        ("OfAtoms", r"head must return a tensor of shape \[6, 1\] \(graphs, targets\); it returned shape \[40, 1\]"),
        ("OneArgument", r"head\(embed\(batch\), batch\): TypeError: .*positional argument"),
    ],
)
def test_own_module_without_fitting_parts_is_told(own, name, message):
    model, batch = own(name), batch64(some_molecules())
    assert model(batch).shape == (6, 1)  # it trains all the same
    with pytest.raises(InputError, match=message):
        model.parts(batch)
