"""ALIGNN: equal to the package alignn with its weights, and blind to what must not matter."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from some_graphs import batch_of, some_crystals, stored_reference

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.features import element_table
from hpc_kit.models.alignn import ALIGNN, from_upstream
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import ALIGNN as Spec

GRAPH = Graph(cutoff=8.0, max_neighbors=12, rule="alignn")
NARROW = {"hidden": 16, "embedding": 8, "edge_bins": 20, "triplet_bins": 10}
REFERENCE = Path(__file__).parent.parent / "references" / "alignn.npz"
CRYSTALS = some_crystals()
LAYERS = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (2, 2)]


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, np.ndarray], GraphBatch]:
    return stored_reference(REFERENCE)


@pytest.fixture(params=["train", "eval"])
def model(request) -> ALIGNN:
    return build((2, 2)).train(request.param == "train")


def build(layers: tuple[int, int]) -> ALIGNN:
    torch.manual_seed(0)
    model = ALIGNN(Spec(alignn_layers=layers[0], gcn_layers=layers[1], **NARROW), GRAPH)
    for name, buffer in model.named_buffers():  # as after some training
        if name.endswith("running_var"):
            buffer.mul_(2.0)
    return model


def with_reference_weights(content: dict[str, np.ndarray], layers: tuple[int, int]) -> ALIGNN:
    """Return a model of the first `layers` of the stored ones: what upstream's of that size would have."""
    absent = {"alignn_layers": layers[0], "gcn_layers": layers[1]}
    state = part(content, "weights/")
    for name in list(state):
        kind, number, *_ = name.split(".")
        if kind in absent and int(number) >= absent[kind]:
            del state[name]
    model = build(layers)
    model.load_state_dict(from_upstream(state))
    return model


def part(content: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in content.items() if k.startswith(prefix)}


def close(found: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """Compare with a tolerance relative to each number, and to the largest for those near zero."""
    torch.testing.assert_close(found, expected, rtol=relative, atol=relative * float(expected.abs().max()))


def test_element_features_are_the_packages(reference):
    content, batch = reference
    assert np.array_equal(element_table()[batch.z], content["features"])


@pytest.mark.parametrize("mode", ["", "_eval"])
def test_output_gradients_and_forces_equal_the_packages(reference, mode):
    content, batch = reference
    model = with_reference_weights(content, (2, 2)).train(not mode)
    batch = copy.copy(batch)
    batch.pos = batch.pos.clone().requires_grad_()
    output = model(batch)
    close(output.squeeze(1), torch.from_numpy(content[f"output{mode}"]), 1e-5)
    output.sum().backward()
    close(-batch.pos.grad, torch.from_numpy(content[f"forces{mode}"]), 1e-4)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    expected = part(content, f"gradient{mode}/")
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients.items():
        # A bias that batch normalisation takes away again has a gradient of rounding errors.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6 * largest, msg=name)
    if not mode:
        after = part(content, "after/")
        for name, buffer in model.named_buffers():
            if "running" in name:
                close(buffer, after[name], 1e-5)


@pytest.mark.parametrize("mode", ["", "_eval"])
def test_output_and_forces_in_float64_equal_the_packages_to_twelve_digits(reference, mode):
    content, batch = reference
    model, batch = with_reference_weights(content, (2, 2)).train(not mode).double(), doubled(batch)
    output = model(batch)
    close(output.squeeze(1), torch.from_numpy(content[f"output64{mode}"]), 1e-12)
    output.sum().backward()
    close(-batch.pos.grad, torch.from_numpy(content[f"forces64{mode}"]), 1e-11)


@pytest.mark.parametrize("layers", LAYERS)
def test_any_number_of_layers_equals_the_packages(reference, layers):
    content, batch = reference
    output = with_reference_weights(content, layers)(batch)
    close(output.squeeze(1), torch.from_numpy(content[f"output/{layers[0]}+{layers[1]}"]), 1e-5)


@pytest.mark.parametrize("layers", LAYERS)
def test_every_parameter_has_a_gradient(layers):
    model = build(layers)
    model(batch_of(CRYSTALS, GRAPH)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("graph", [GRAPH, Graph(cutoff=4.0), Graph(cutoff=4.0, max_neighbors=7)])
def test_sharing_equal_lengths_and_angles_changes_nothing(graph, model, monkeypatch):
    batch = batch_of(CRYSTALS, graph)
    shared = output_and_gradients(model.double(), doubled(batch))
    monkeypatch.setattr("hpc_kit.models.alignn.reverse_edges", lambda src, *_: torch.full_like(src, -1))
    model.zero_grad()
    for one, other in zip(shared, output_and_gradients(model, doubled(batch)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def doubled(batch: GraphBatch) -> GraphBatch:
    """Return the batch in float64, to be derived with respect to its positions."""
    batch = copy.copy(batch)
    batch.pos, batch.cell = batch.pos.double().requires_grad_(), batch.cell.double()
    return batch


def output_and_gradients(model: ALIGNN, batch: GraphBatch) -> list[torch.Tensor]:
    output = model(batch)
    output.sum().backward()
    return [output.detach(), batch.pos.grad, *(parameter.grad.clone() for parameter in model.parameters())]


def test_rotation_translation_and_order_of_atoms_change_nothing(model):
    moved = []
    for number, atoms in enumerate(CRYSTALS):
        atoms = atoms[np.random.default_rng(number).permutation(len(atoms))]
        atoms.rotate(40.0 + number, (1, 2, 3), rotate_cell=True)
        atoms.translate((1.0, -2.0, 3.0))
        moved.append(atoms)
    graph = Graph(cutoff=4.0)
    outputs = [model(batch_of(crystals, graph)) for crystals in (CRYSTALS, moved)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_supercell_gives_the_same():
    model, graph = build((2, 2)).eval(), Graph(cutoff=4.0)
    larger = [atoms.repeat((2, 1, 1)) for atoms in CRYSTALS]
    torch.testing.assert_close(model(batch_of(larger, graph)), model(batch_of(CRYSTALS, graph)), rtol=1e-4, atol=1e-5)


def test_batch_equals_one_by_one():
    model = build((2, 2)).eval()
    together = model(batch_of(CRYSTALS, GRAPH))
    alone = torch.cat([model(batch_of([atoms], GRAPH)) for atoms in CRYSTALS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_embedding_is_per_atom_and_feeds_the_output():
    model, batch = build((2, 2)).eval(), batch_of(CRYSTALS, GRAPH)
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 16)
    mean = torch.stack([atoms.mean(0) for atoms in features.split(batch.atom_ptr.diff().tolist())])
    torch.testing.assert_close(model(batch), model.fc(mean))


def test_forces_equal_finite_differences(model):
    model, batch = model.double(), doubled(batch_of(CRYSTALS[1:4], GRAPH))
    for module in model.modules():
        module.momentum = 0.0  # the running statistics stay as they are
    (gradient,) = torch.autograd.grad(model(batch).sum(), batch.pos)
    step = 1e-5
    with torch.no_grad():
        for atom, axis in [(0, 0), (2, 1), (5, 2)]:
            ends = []
            for sign in (1.0, -1.0):
                batch.pos[atom, axis] += sign * step
                ends.append(model(batch).sum())
                batch.pos[atom, axis] -= sign * step
            slope = (ends[0] - ends[1]) / (2.0 * step)
            torch.testing.assert_close(gradient[atom, axis], slope, rtol=1e-6, atol=1e-8)


def test_second_derivatives_equal_finite_differences(model):
    """As training on forces needs them: those of the squared forces with respect to weights."""
    model, batch = model.double(), doubled(batch_of(CRYSTALS[2:4], GRAPH))
    for module in model.modules():
        module.momentum = 0.0

    def squared_forces() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(model(batch).sum(), batch.pos, create_graph=True)
        return gradient.square().sum()

    squared_forces().backward()
    first = model.alignn_layers[0]
    layers = [first["node_update"].edge_gate, first["edge_update"].edge_gate, first["edge_update"].bn_edges]
    for layer in [*layers, model.gcn_layers[1].src_gate, model.angle_embedding[1].layer[1]]:
        weight, ends = layer.weight.data.flatten(), []
        for change in (1e-5, -2e-5):
            weight[1] += change
            ends.append(squared_forces().detach())
        weight[1] += 1e-5
        gradient = layer.weight.grad.flatten()
        slope = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(gradient[1], slope, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def test_blocks_of_few_rows_change_nothing(model, monkeypatch):
    batch = doubled(batch_of(CRYSTALS, GRAPH))
    whole = output_and_gradients(model.double(), batch)
    monkeypatch.setattr("hpc_kit.models.layers.BLOCK", 16 * 50)
    model.zero_grad()
    batch.pos.grad = None
    for one, other in zip(whole, output_and_gradients(model, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", LAYERS)
def test_no_graphs_and_no_edges(layers, model):
    model = build(layers).train(model.training)
    none = batch_of(CRYSTALS[:2], GRAPH)
    for name in ("z", "pos", "cell", "src", "dst", "shift", "targets"):
        setattr(none, name, getattr(none, name)[:0])
    none.atom_ptr, none.edge_ptr = none.atom_ptr[:1], none.edge_ptr[:1]
    output = model(none)
    assert output.shape == (0, 1)
    output.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    apart = batch_of(CRYSTALS, Graph(cutoff=0.5))
    assert len(apart.src) == 0
    assert torch.isfinite(model(apart)).all()


def test_bfloat16_is_close():
    model, batch = build((2, 2)), batch_of(CRYSTALS, GRAPH)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(batch)
    low.float().sum().backward()
    torch.testing.assert_close(low.float(), build((2, 2))(batch), rtol=0.05, atol=0.05)


def test_weights_that_do_not_fit_are_named(reference):
    content, _ = reference
    state = from_upstream(part(content, "weights/"))
    state["gcn_layers.7.src_gate.weight"] = state.pop("gcn_layers.0.src_gate.weight")
    with pytest.raises(RuntimeError, match=r"Missing.*gcn_layers.0.src_gate.weight(.|\n)*Unexpected.*gcn_layers.7"):
        build((2, 2)).load_state_dict(state)
