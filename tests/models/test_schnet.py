"""SchNet: equal to torch_geometric's with the same weights."""

import pytest
import torch
from invariances import GRAPHS, RADIUS, SMALL_SCHNET, STRUCTURES, batch64, check_forces, check_nothing, random_model
from some_graphs import batch_of, some_crystals, some_molecules
from torch_geometric.nn.models import SchNet as ReferenceSchNet

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.schnet import SchNet, from_upstream
from hpc_kit.spec.data import Graph


def reference_for(batch: GraphBatch, graph: Graph, readout: str = "add") -> ReferenceSchNet:
    """Return torch_geometric's SchNet on our edges (its own radius graph needs a compiled extension)."""

    def edges(pos: torch.Tensor, _) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([batch.src, batch.dst]), batch.edge_vectors().norm(dim=-1)

    torch.manual_seed(1)
    return ReferenceSchNet(24, 16, 3, 20, graph.cutoff, interaction_graph=edges, readout=readout)


@STRUCTURES
@GRAPHS
def test_output_gradients_and_forces_equal_torch_geometrics(structures, graph):
    batch = batch_of(structures, graph)
    batch.pos.requires_grad_()
    reference = reference_for(batch, graph)
    model = SchNet(SMALL_SCHNET, graph)
    model.load_state_dict(from_upstream(reference.state_dict()))
    ours, theirs = model(batch), reference(batch.z, batch.pos, batch.graph_of_atom())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    def gradients(out: torch.Tensor, module: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pos, *weights = torch.autograd.grad(out.sum(), [batch.pos, *module.parameters()])
        return pos, dict(zip(dict(module.named_parameters()), weights, strict=True))

    forces, weights = gradients(ours, model)
    expected_forces, expected = gradients(theirs, reference)
    torch.testing.assert_close(forces, expected_forces, rtol=1e-4, atol=1e-4 * float(expected_forces.abs().max()))
    expected = from_upstream(expected)
    assert expected.keys() == weights.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()), msg=name)


def test_mean_readout_equals_torch_geometrics():
    batch = batch_of(some_crystals(), RADIUS)
    reference = reference_for(batch, RADIUS, readout="mean")
    model = SchNet(SMALL_SCHNET.model_copy(update={"readout": "mean"}), RADIUS)
    model.load_state_dict(from_upstream(reference.state_dict()))
    theirs = reference(batch.z, batch.pos, batch.graph_of_atom())
    torch.testing.assert_close(model(batch), theirs, rtol=1e-5, atol=1e-5)


def test_a_state_of_another_model_is_refused():
    state = SchNet(SMALL_SCHNET, RADIUS).state_dict() | {"interactions.0.mlp.5.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"interactions\.0\.mlp\.5\.weight"):
        SchNet(SMALL_SCHNET, RADIUS).load_state_dict(from_upstream(state))


@STRUCTURES
def test_interpolated_filters_come_near_and_give_consistent_forces(structures):
    exact, near = random_model(SMALL_SCHNET), random_model(SMALL_SCHNET.model_copy(update={"filter_points": 1000}))
    near.load_state_dict(exact.state_dict())
    batch = batch64(structures)
    torch.testing.assert_close(near(batch), exact(batch), rtol=1e-5, atol=1e-5)
    check_forces(near, structures[:3])
    check_nothing(near, targets=1)


def test_embedding_is_per_atom_and_feeds_the_output():
    batch, model = batch64(some_molecules()), random_model(SMALL_SCHNET)
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 12)
    summed = features.new_zeros(batch.graphs, 1).index_add_(0, batch.graph_of_atom(), model.output(features))
    torch.testing.assert_close(model(batch), summed)
