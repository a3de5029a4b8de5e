"""MPNN-transformer: its layer equal to torch's TransformerEncoderLayer, and blind to what must not matter."""

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
from pydantic import ValidationError
from some_graphs import batch_of, some_crystals, some_molecules

from hpc_kit.models.layers import slots
from hpc_kit.models.mpnn_transformer import EncoderLayer
from hpc_kit.spec.models import MPNNTransformer as Spec

SPEC = Spec(hidden=8, edge_hidden=12, steps=2, set2set_steps=2, gaussians=10, attention_layers=2, heads=2)
STRUCTURES = pytest.mark.parametrize("structures", [some_molecules(), some_crystals()], ids=["molecules", "crystals"])
GRAPHS = pytest.mark.parametrize("graph", [RADIUS, NEAREST], ids=["radius", "nearest"])


def test_layer_equals_torchs_on_each_graph():
    torch.manual_seed(0)
    ours = EncoderLayer(8, 2)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    attention = theirs.self_attn
    pairs = [(ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2), (ours.join, attention.out_proj)]
    pairs += [(ours.network[0], theirs.linear1), (ours.network[2], theirs.linear2)]
    for a, b in pairs:
        a.load_state_dict(b.state_dict())
    ours.project.load_state_dict({"weight": attention.in_proj_weight, "bias": attention.in_proj_bias})
    counts = torch.tensor([3, 1, 7])
    x = torch.randn(11, 8, requires_grad=True)
    place, most = slots(counts, torch.repeat_interleave(counts))
    out = ours(x, place, 3, most)
    expected = torch.cat([theirs(part.unsqueeze(0)).squeeze(0) for part in x.split(counts.tolist())])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    given = torch.autograd.grad(out.square().sum(), [x, ours.project.weight, ours.norm1.weight])
    wanted = torch.autograd.grad(expected.square().sum(), [x, attention.in_proj_weight, theirs.norm1.weight])
    for a, b in zip(given, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="multiple of heads"):
        Spec(hidden=64, heads=3)


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
