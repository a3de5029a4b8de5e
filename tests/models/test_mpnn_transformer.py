"""MPNN-transformer: its layer equal to torch's TransformerEncoderLayer."""

import pytest
import torch
from pydantic import ValidationError

from hpc_kit.models.layers import padded_places
from hpc_kit.models.mpnn_transformer import EncoderLayer
from hpc_kit.spec.models import MPNNTransformer as Spec


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
    place, most = padded_places(counts, torch.repeat_interleave(counts))
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
