"""MPNN: equal to torch_geometric's NNConv and Set2Set with torch's GRU, and blind to what must not matter."""

import pytest
import torch
from invariances import (
    NEAREST,
    RADIUS,
    batch64,
    check_autocast,
    check_forces,
    check_gradients_reach_all,
    check_motion,
    check_nothing,
    check_one_by_one,
    check_supercell,
    random_model,
)
from some_graphs import batch_of, some_crystals, some_molecules
from torch import nn
from torch_geometric.nn import NNConv
from torch_geometric.nn.aggr import Set2Set

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.mpnn import MPNN, from_upstream
from hpc_kit.spec.models import MPNN as Spec

SPEC = Spec(hidden=8, edge_hidden=12, steps=3, set2set_steps=3, gaussians=10)
STRUCTURES = pytest.mark.parametrize("structures", [some_molecules(), some_crystals()], ids=["molecules", "crystals"])
GRAPHS = pytest.mark.parametrize("graph", [RADIUS, NEAREST], ids=["radius", "nearest"])


class Reference(nn.Module):
    """enn-s2s of torch_geometric's layers, with a d x d matrix for each edge."""

    def __init__(self, spec: Spec):
        super().__init__()
        d = spec.hidden
        self.embedding = nn.Embedding(119, d)
        network = nn.Sequential(
            nn.Linear(spec.gaussians, spec.edge_hidden), nn.ReLU(), nn.Linear(spec.edge_hidden, d * d)
        )
        self.conv = NNConv(d, d, network, aggr="add", root_weight=False, bias=False)
        self.gru = nn.GRU(d, d)
        self.lin0 = nn.Linear(2 * d, d)
        self.set2set = Set2Set(d, processing_steps=spec.set2set_steps)
        self.lin1, self.lin2 = nn.Linear(2 * d, d), nn.Linear(d, 1)

    def forward(self, batch: GraphBatch, basis: torch.Tensor, steps: int) -> torch.Tensor:
        start = out = self.embedding(batch.z)
        h = out.unsqueeze(0)
        for _ in range(steps):
            message = self.conv(out, torch.stack([batch.src, batch.dst]), basis)
            out, h = self.gru(message.unsqueeze(0), h)
            out = out.squeeze(0)
        out = self.lin0(torch.cat([out, start], dim=1))
        out = self.set2set(out, batch.graph_of_atom(), dim_size=batch.graphs)
        return self.lin2(torch.relu(self.lin1(out)))


@STRUCTURES
@GRAPHS
def test_output_gradients_and_forces_equal_torch_geometrics_layers(structures, graph):
    batch = batch_of(structures, graph)
    batch.pos.requires_grad_()
    torch.manual_seed(1)
    reference = Reference(SPEC)
    model = MPNN(SPEC, graph)
    model.load_state_dict(from_upstream(reference.state_dict()))
    ours = model(batch)
    theirs = reference(batch, model.basis(batch.edge_vectors().norm(dim=-1)), SPEC.steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    given = torch.autograd.grad(ours.sum(), [batch.pos, *model.parameters()])
    wanted = torch.autograd.grad(theirs.sum(), [batch.pos, *reference.parameters()])
    expected = from_upstream(dict(zip(dict(reference.named_parameters()), wanted[1:], strict=True)))
    weights = dict(zip(dict(model.named_parameters()), given[1:], strict=True))
    assert expected.keys() == weights.keys()
    for name, value in {"pos": wanted[0], **expected}.items():
        found = given[0] if name == "pos" else weights[name]
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4 * float(value.abs().max()), msg=name)


@STRUCTURES
def test_motion_and_order_of_atoms_change_nothing(structures):
    check_motion(random_model(SPEC), structures)


def test_choice_of_unit_cell_changes_nothing():
    check_supercell(random_model(SPEC), extensive=False)


@STRUCTURES
def test_batch_equals_one_by_one(structures):
    check_one_by_one(random_model(SPEC), structures)


def test_no_graphs_and_no_edges():
    check_nothing(random_model(SPEC, targets=2), targets=2)


def test_all_parameters_take_part():
    check_gradients_reach_all(random_model(SPEC), batch64(some_molecules()))


@STRUCTURES
@GRAPHS
def test_forces_equal_finite_differences_and_can_be_trained_on(structures, graph):
    check_forces(random_model(SPEC, graph), structures[:3])


def test_bfloat16():
    check_autocast(random_model(SPEC).float(), batch_of(some_molecules(), RADIUS))


def test_embedding_is_per_atom_and_feeds_the_readout():
    batch, model = batch64(some_molecules()), random_model(SPEC)
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 8)
    read = model.readout(features, batch.graph_of_atom(), batch.graphs)
    torch.testing.assert_close(model(batch), model.output(read))
