"""BatchNorm: torch's own numbers, on one process and on several, for rows that stand for several, and fused."""

import copy

import pytest
import torch
from torch import distributed, multiprocessing, nn

from hpc_kit.models.layers import BatchNorm

FEATURES = 5


def rows(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, FEATURES, dtype=torch.float64, generator=generator) * 3.0 + 7.0


def pair() -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Return ours and torch's with the same state, not the initial one."""
    ours, theirs = BatchNorm(FEATURES).double(), nn.BatchNorm1d(FEATURES).double()
    with torch.no_grad():
        for tensor, start in ((theirs.weight, 0.5), (theirs.bias, -1.0), (theirs.running_var, 2.0)):
            tensor.copy_(torch.arange(FEATURES) * 0.3 + start)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def output_and_gradients(norm: nn.BatchNorm1d, x: torch.Tensor, after=lambda y: y, **options):
    """Return the output and the gradients of x, weight and bias; `after` finishes what torch's does not do."""
    norm.zero_grad()
    x = x.clone().requires_grad_()
    y = after(norm(x, **options))
    (y * torch.arange(y.numel()).view_as(y).to(y).sin()).sum().backward()
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


def same(ours, theirs):
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_equals_torchs(training, silu, residual, monkeypatch):
    monkeypatch.setattr("hpc_kit.models.layers.BLOCK", 2 * FEATURES)  # several blocks, the last one short
    ours, theirs = (norm.train(training) for norm in pair())
    x, other = rows(11), rows(11, seed=1)
    options = {"silu": silu, "residual": other if residual else None}

    def after(y):
        return (nn.functional.silu(y) if silu else y) + (other if residual else 0.0)

    same(output_and_gradients(ours, x, **options), output_and_gradients(theirs, x, after))
    same(ours.state_dict().values(), theirs.state_dict().values())


@pytest.mark.parametrize("silu", [True, False])
def test_rows_that_stand_for_several_equal_repeated_rows(silu):
    ours, theirs = pair()
    x, repeats = rows(7), torch.tensor([1, 3, 1, 2, 2, 5, 1])
    x_long = x.repeat_interleave(repeats, 0).requires_grad_()
    expected = nn.functional.silu(theirs(x_long)) if silu else theirs(x_long)
    expected.square().sum().backward()
    x = x.requires_grad_()
    found = ours(x, repeats, silu=silu).repeat_interleave(repeats, 0)
    found.square().sum().backward()
    copies = torch.zeros_like(x).index_add_(0, torch.repeat_interleave(repeats), x_long.grad)
    same((found, x.grad, ours.weight.grad, ours.bias.grad), (expected, copies, theirs.weight.grad, theirs.bias.grad))
    same(ours.state_dict().values(), theirs.state_dict().values())


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(training):
    norm, repeats = pair()[0].train(training), torch.tensor([1, 2, 1, 3])
    norm.momentum = 0.0  # the numerical derivative calls it often
    arguments = [rows(4).requires_grad_(), rows(4, seed=1).requires_grad_()]

    def function(x, residual):
        return norm(x, repeats, silu=True, residual=residual)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_no_rows_change_nothing():
    norm, _ = pair()
    before = copy.deepcopy(norm.state_dict())
    before.pop("num_batches_tracked")
    x = torch.zeros(0, FEATURES, dtype=torch.float64, requires_grad=True)
    for options in ({}, {"silu": True}):
        norm(x, **options).sum().backward()
        assert norm.weight.grad.tolist() == [0.0] * FEATURES
    same(before.values(), [norm.state_dict()[name] for name in before])


def test_one_row_is_refused_in_training():
    with pytest.raises(ValueError, match="single row"):
        BatchNorm(3)(torch.ones(1, 3), silu=True)


def test_bfloat16_keeps_its_type_and_float32_statistics():
    norm = BatchNorm(FEATURES)
    x = rows(50).float()
    found = norm(x.bfloat16(), silu=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), BatchNorm(FEATURES)(x, silu=True), rtol=0.02, atol=0.02)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0), rtol=1e-3, atol=1e-3)


# of 13 rows, on two ranks; one of them may have none
CASES = [([4, 9], {}), ([0, 13], {"silu": True})]


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for number, (shares, options) in enumerate(CASES):
        mine = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        norm, _ = pair()
        x = rows(13)[mine].requires_grad_()
        y = norm(x, **options)
        (y * torch.arange(13 * FEATURES).view(13, FEATURES)[mine].to(y).sin()).sum().backward()
        for parameter in norm.parameters():
            distributed.all_reduce(parameter.grad)
        found = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        torch.save(found | norm.state_dict(prefix="state."), f"{folder}/{number}-{rank}.pt")
    distributed.destroy_process_group()


def test_several_ranks_equal_one_process_with_all_rows(tmp_path):
    multiprocessing.spawn(on_a_rank, (str(tmp_path),), nprocs=2)
    for number, (_, options) in enumerate(CASES):
        found = [torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
        _, theirs = pair()
        expected = output_and_gradients(theirs, rows(13), nn.functional.silu if options else lambda y: y)
        together = [torch.cat([one[name] for one in found]) for name in ("y", "x")]
        for one in found:
            same([*together, one["weight"], one["bias"]], expected)
            same([one[f"state.{name}"] for name in theirs.state_dict()], theirs.state_dict().values())
