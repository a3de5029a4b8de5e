"""SchNet: equal to torch_geometric's with the same weights, and blind to what must not matter."""

import copy

import numpy as np
import pytest
import torch
from conftest import open_store
from torch_geometric.nn.models import SchNet as ReferenceSchNet

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.models.schnet import SchNet
from hpc_kit.spec.job import Graph
from hpc_kit.spec.models import SchNet as Spec
from hpc_kit.spec.shipped import shipped_folder

CUTOFF = 5.0


@pytest.fixture(scope="module")
def store() -> GraphStore:
    return open_store(shipped_folder("embedded") / "qm9_sample", "zpve", Graph(cutoff=CUTOFF))


@pytest.fixture
def model() -> SchNet:
    torch.manual_seed(0)
    return SchNet(Spec(hidden=32, filters=24, interactions=3, gaussians=20), Graph(cutoff=CUTOFF))


def reference_with_weights_of(model: SchNet, batch: GraphBatch) -> ReferenceSchNet:
    """Return torch_geometric's SchNet on our edges (its own radius graph needs a compiled extension)."""

    def edges(pos: torch.Tensor, _) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([batch.src, batch.dst]), (pos[batch.src] - pos[batch.dst]).norm(dim=-1)

    reference = ReferenceSchNet(32, 24, 3, 20, CUTOFF, interaction_graph=edges, readout="add")
    with torch.no_grad():
        reference.embedding.weight.copy_(model.embedding.weight[:100])
        for ours, theirs in zip(model.blocks, reference.interactions, strict=True):
            pairs = [(ours.filter[0], theirs.mlp[0]), (ours.filter[2], theirs.mlp[2])]
            pairs += [(ours.project, theirs.conv.lin1), (ours.update[0], theirs.conv.lin2)]
            pairs += [(ours.update[2], theirs.lin)]
            for a, b in pairs:
                b.load_state_dict(a.state_dict())
        reference.lin1.load_state_dict(model.atomwise[0].state_dict())
        reference.lin2.load_state_dict(model.output.state_dict())
    return reference


def test_output_and_gradients_equal_torch_geometrics(store, model):
    batch = store.batch(np.arange(16))
    reference = reference_with_weights_of(model, batch)
    ours, theirs = model(batch), reference(batch.z, batch.pos, batch.graph_of_atom())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(
        model.blocks[0].filter[0].weight.grad, reference.interactions[0].mlp[0].weight.grad, rtol=1e-4, atol=1e-4
    )


def test_rotation_and_translation_change_nothing(store, model):
    batch = store.batch(np.arange(8))
    moved = copy.copy(batch)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    moved.pos = batch.pos @ rotation + torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(model(moved), model(batch), rtol=1e-4, atol=1e-4)


def test_batch_equals_one_by_one(store, model):
    together = model(store.batch(np.arange(6)))
    alone = torch.cat([model(store.batch(np.array([i]))) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_embedding_is_per_atom_and_feeds_the_output(store, model):
    batch = store.batch(np.arange(4))
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 16)
    summed = torch.zeros(4, 1).index_add_(0, batch.graph_of_atom(), model.output(features))
    torch.testing.assert_close(model(batch), summed)


def test_mean_readout_is_the_sum_over_the_number_of_atoms(store, model):
    batch = store.batch(np.arange(4))
    total = model(batch)
    model.readout = "mean"
    torch.testing.assert_close(model(batch) * batch.atom_ptr.diff().unsqueeze(1), total)
