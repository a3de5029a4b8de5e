"""MPNN: equal to torch_geometric's NNConv and Set2Set with torch's GRU."""

import pytest
import torch
from invariances import GRAPHS, SMALL_MPNN, SMALL_MPNN_TRANSFORMER, STRUCTURES, batch64, by_name, random_model
from some_graphs import batch_of, some_molecules
from torch import nn
from torch_geometric.nn import NNConv
from torch_geometric.nn.aggr import Set2Set

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.mpnn import MPNN, from_upstream
from hpc_kit.spec.models import MPNN as Spec


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
    reference = Reference(SMALL_MPNN)
    model = MPNN(SMALL_MPNN, graph)
    model.load_state_dict(from_upstream(reference.state_dict()))
    ours = model(batch)
    theirs = reference(batch, model.basis(batch.edge_vectors().norm(dim=-1)), SMALL_MPNN.steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    given = torch.autograd.grad(ours.sum(), [batch.pos, *model.parameters()])
    wanted = torch.autograd.grad(theirs.sum(), [batch.pos, *reference.parameters()])
    expected = from_upstream(dict(zip(dict(reference.named_parameters()), wanted[1:], strict=True)))
    weights = dict(zip(dict(model.named_parameters()), given[1:], strict=True))
    assert expected.keys() == weights.keys()
    for name, value in {"pos": wanted[0], **expected}.items():
        found = given[0] if name == "pos" else weights[name]
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4 * float(value.abs().max()), msg=name)


@pytest.mark.parametrize("spec", [SMALL_MPNN, SMALL_MPNN_TRANSFORMER], ids=by_name)
def test_embedding_is_per_atom_and_feeds_the_readout(spec):
    batch, model = batch64(some_molecules()), random_model(spec)
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 8)
    read = model.readout(features, batch.graph_of_atom(), batch.graphs)
    torch.testing.assert_close(model(batch), model.output(read))
