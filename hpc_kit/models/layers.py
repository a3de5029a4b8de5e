"""Layers that several models share."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import distributed, nn

from hpc_kit.models.compiling import left_alone


class ShiftedSoftplus(nn.Module):
    """ln(0.5 e^x + 0.5), smooth and zero at zero (Schuett et al. 2017, arXiv:1706.08566, section 4.1)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.softplus(x).sub_(math.log(2.0))


class GaussianBasis(nn.Module):
    """exp(-gamma (d - mu_k)^2) for `count` centres mu_k spread evenly over 0..`stop` Angstrom.

    The width is the spacing of the centres: gamma = 1 / (2 spacing^2).
    """

    def __init__(self, stop: float, count: int):
        super().__init__()
        centres = torch.linspace(0.0, stop, count)
        self.gamma = 0.5 / float(centres[1] - centres[0]) ** 2
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """distance [E] Angstrom -> [E, count]."""
        return clamped_exp((distance.unsqueeze(-1) - self.centres).square() * -self.gamma)


def clamped_exp(exponent: torch.Tensor) -> torch.Tensor:
    """exp(exponent) for exponents of 0 and less; 2e-35 takes the place of all that is smaller.

    On a CPU exp is ten times slower where its result underflows, as most of a basis of distances does.
    """
    return exponent.clamp(min=-80.0).exp()


# torch 2.2, which the last DGL of the default index needs, asks by device through the second name only.
_autocast_on_cpu = (
    partial(torch.is_autocast_enabled, "cpu")
    if hasattr(torch, "get_autocast_dtype")
    else torch.is_autocast_cpu_enabled
)


class Linear(nn.Linear):
    """torch's Linear, faster on some CPUs: see product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [..., I], weight [O, I], bias [O] -> x weight^T + bias [..., O]."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or _autocast_on_cpu():
        return nn.functional.linear(x, weight, bias)
    if x.dim() == 2:
        return _Linear.apply(x, weight, bias)
    return _Linear.apply(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        d_x = _Linear.apply(grad, weight.t(), None) if wanted[0] else None
        d_weight = _Linear.apply(grad.t(), x.t(), None) if wanted[1] else None
        return d_x, d_weight, grad.sum(0) if wanted[2] else None


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x weight^T + bias without autograd, in float32 on a CPU by oneDNN where torch has it.

    torch itself asks MKL, which uses half the vector width of AMD's processors with AVX-512: 95 instead of
    210 GFLOP/s a core (docs/models/alignn.md). With AVX2 alone both are alike, but for sums longer than the result
    (gradients of weights), where oneDNN reaches half of MKL's rate.
    """
    usable = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel()
    if _ONEDNN is not None and usable and (_AVX512 or x.shape[-1] <= len(x)):
        return _ONEDNN(x, weight, bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


# The product that torch.compile's own code calls on CPUs; there is no public name for it.
_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # number, mean, squared distances from it


class BatchNorm(nn.BatchNorm1d):
    """torch's BatchNorm1d over the rows of [N, F], with the same state and the same numbers, and three things more.

    In training on several ranks the statistics are those of all ranks' rows together, so that many ranks train as
    one process with the whole batch; a rank may have no rows. Rows may stand for several equal ones. What usually
    follows (SiLU, a residual) is done in the same pass. Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """

    def __init__(self, features: int):
        super().__init__(features)

    def forward(
        self,
        x: torch.Tensor,
        repeats: torch.Tensor | None = None,
        *,
        silu: bool = False,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [N, F] -> [N, F]: normalised x, then SiLU, then plus residual [N, F], where asked for.

        repeats [N]: how many equal rows each row stands for; one each without it.
        """
        several = self.training and ranks() > 1
        if self.training and repeats is None and not several and len(x) == 1:
            raise ValueError("batch normalisation cannot train on a single row; use a larger batch")
        if not (several or silu or residual is not None or repeats is not None) and len(x):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(x, repeats, silu, residual)

    @left_alone  # a loop over blocks, whose number depends on the batch
    def _normalise(self, x, repeats, silu, residual) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                each = None if repeats is None else repeats.to(wide(x))
                parts = pieces(x) if each is None else pieces(x, each)
            mean, deviation, count = self.statistics([moments(*part) for part in parts])
        else:
            each, (mean, deviation, count) = None, self.statistics()
        return Normalise.apply(x, self.weight, self.bias, residual, each, mean, deviation, count, silu, self.eps)

    @torch.no_grad()
    def statistics(self, blocks: Sequence[Moments] = ()) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return mean [F], 1 / standard deviation [F] and number [1] of rows to normalise by.

        In training they are those of `blocks` of rows and of the other ranks', and the running ones follow them;
        otherwise the running ones, without a number.
        """
        if not self.training:
            return self.running_mean, (self.running_var + self.eps).rsqrt(), None
        count, mean, squares = _combined(*(torch.stack(kind) for kind in zip(*blocks, strict=True)))
        if ranks() > 1:
            mine = torch.cat([count, mean, squares])
            all_ranks = [torch.empty_like(mine) for _ in range(ranks())]
            distributed.all_gather(all_ranks, mine)
            count, mean, squares = _combined(*torch.stack(all_ranks).split([1, *[len(mean)] * 2], dim=1))
        momentum = self.momentum * (count > 0).to(self.running_mean)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_((squares / (count - 1).clamp(min=1)).to(self.running_var), momentum)
        count = count.clamp(min=1)
        return mean, (squares / count + self.eps).rsqrt(), count


class Normalise(torch.autograd.Function):
    """act((x - mean) * deviation * weight + bias) + residual; mean [F] and deviation [F] (1 / standard deviation).

    With count [1], mean and deviation are those of x itself, and gradients pass through them; without, constants.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, residual, repeats, mean, deviation, count, silu, eps):
        ctx.save_for_backward(x, weight, bias, repeats, mean, deviation, count)
        ctx.silu, ctx.eps, ctx.residual = silu, eps, residual is not None
        scale, offset = scale_and_offset(weight, bias, mean, deviation)
        out = torch.empty_like(x)
        for old, new, *more in pieces(x, out, *([residual] if ctx.residual else [])):
            y = torch.addcmul(offset, old.to(scale.dtype), scale)
            if silu:
                y = nn.functional.silu(y, inplace=True)
            if more:
                torch.add(y, more[0], out=new)
            else:
                new.copy_(y)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, bias, repeats, mean, deviation, count = ctx.saved_tensors
        through = grad if ctx.residual else None
        if torch.is_grad_enabled():
            given = {"repeats": repeats, "mean": mean, "deviation": deviation, "count": count}
            formula = partial(normalised, **given, silu=ctx.silu, eps=ctx.eps)
            found = gradients_by_formula(formula, (x, weight, bias), (grad,))
            return (*found, through, *[None] * 6)
        scale, offset = scale_and_offset(weight, bias, mean, deviation)
        dx = torch.empty_like(x, dtype=scale.dtype)
        sums = dx.new_zeros(2, x.shape[1])
        for old, d_new, dy in pieces(x, grad, dx):
            old, d_new = old.to(dy.dtype), d_new.to(dy.dtype)
            if ctx.silu:
                torch.ops.aten.silu_backward(d_new, torch.addcmul(offset, old, scale), grad_input=dy)
            else:
                dy.copy_(d_new)
            add_sums(sums, dy, old, mean)
        level, slope = through_statistics(sums, scale, mean, deviation, count)
        for old, dy, *more in pieces(x, dx, *([] if repeats is None else [repeats])):
            by_row = torch.addcmul(level, old.to(dy.dtype), slope)
            if more:
                by_row *= more[0].unsqueeze(1)
            torch.addcmul(by_row, dy, scale, out=dy)
        return (dx.to(x.dtype), sums[1] * deviation, sums[0], through, *[None] * 6)


def scale_and_offset(weight, bias, mean, deviation) -> tuple[torch.Tensor, torch.Tensor]:
    """All [F] -> a, b of (x - mean) * deviation * weight + bias = a x + b."""
    scale = weight * deviation
    return scale, bias - mean * scale


def add_sums(sums: torch.Tensor, dy: torch.Tensor, x: torch.Tensor, mean: torch.Tensor) -> None:
    """Add to sums [2, F] those of dy and of dy (x - mean), over the rows of x, dy [n, F]."""
    sums[0] += dy.sum(0)
    sums[1] += (x - mean).mul_(dy).sum(0)


def through_statistics(sums, scale, mean, deviation, count) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a, b [F]: dx = scale * dy + a + b x, where y = scale * x + offset, for the sums of add_sums.

    dx = scale (dy - mean(dy) - u mean(dy u)) with u = (x - mean) deviation and means over all ranks' rows:
    algorithm 1 of Ioffe & Szegedy 2015, differentiated. Without count both are zero: the statistics are constants.
    """
    if count is None:
        return torch.zeros_like(mean), torch.zeros_like(mean)
    means = sum_over_ranks(sums) / count
    slope = -scale * deviation.square() * means[1]
    return -scale * means[0] - slope * mean, slope


def normalised(x, weight, bias, repeats, mean, deviation, count, silu, eps) -> torch.Tensor:
    """What Normalise computes, without the residual, in torch's own operations: for second derivatives."""
    if count is not None:
        each = x.new_ones(len(x), 1) if repeats is None else repeats.unsqueeze(1)
        mean = SumOverRanks.apply((each * x).sum(0)) / count
        deviation = (SumOverRanks.apply((each * (x - mean).square()).sum(0)) / count + eps).rsqrt()
    y = (x - mean) * deviation * weight + bias
    return (nn.functional.silu(y) if silu else y).to(x.dtype)


@torch.no_grad()
def moments(x: torch.Tensor, repeats: torch.Tensor | None = None) -> Moments:
    """Return the number of rows [1], their mean [F] and the sum of squared distances from it [F]; repeats [N]."""
    x = x.to(wide(x))
    each = x.new_ones(len(x)) if repeats is None else repeats
    count = each.sum(0, keepdim=True)
    mean = each @ x / count.clamp(min=1)
    return count, mean, each @ (x - mean).square_()


def _combined(count: torch.Tensor, mean: torch.Tensor, squares: torch.Tensor) -> Moments:
    """Moments of B disjoint sets of rows -> those of all (Chan, Golub & LeVeque 1983, doi 10.2307/2683386, eq. 2.1).

    count [B, 1], mean and squares [B, F] -> [1], [F], [F].
    """
    total = count.sum(0)
    centre = (count * mean).sum(0) / total.clamp(min=1)
    return total, centre, (squares + count * (mean - centre).square()).sum(0)


BLOCK = 2**17  # numbers a thread: 512 KB of float32


def pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cut tensors of equally many rows, the first [N, F], into blocks of rows, together.

    The blocks are such that they stay in a CPU's cache through several element-wise passes, which cost more than the
    products between them where they go to memory. On a GPU there is one, of all rows.
    """
    first = tensors[0]
    count = len(first)
    if first.device.type == "cpu":
        count = BLOCK * torch.get_num_threads() // first.shape[1]
    return zip(*(tensor.split(max(1, count)) for tensor in tensors), strict=True)


def wide(x: torch.Tensor) -> torch.dtype:
    """Return the type to add many of x's numbers in."""
    return torch.promote_types(x.dtype, torch.float32)


def ranks() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_ranks(x: torch.Tensor) -> torch.Tensor:
    if ranks() > 1:
        x = x.clone()
        distributed.all_reduce(x)
    return x


class SumOverRanks(torch.autograd.Function):
    """sum_over_ranks for autograd: the gradient of a sum that all ranks use is the sum of their gradients."""

    @staticmethod
    def forward(ctx, x):
        return sum_over_ranks(x)

    @staticmethod
    def backward(ctx, grad):
        return SumOverRanks.apply(grad)


def gradients_by_formula(
    formula: Callable, inputs: Sequence[torch.Tensor | None], grads: Sequence[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """Return the gradients of formula(*inputs) with respect to `inputs`, such that they can be derived again.

    For the backward of a hand-written function when a second derivative will be asked for (create_graph).
    """
    copies = [None if x is None else x.view_as(x) for x in inputs]  # one input may have been made from another
    outputs = formula(*copies)
    pairs = zip((outputs,) if torch.is_tensor(outputs) else outputs, grads, strict=True)
    used, given = zip(*[pair for pair in pairs if pair[1] is not None], strict=True)
    wanted = [x for x in copies if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(used, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in copies]


def sum_by_graph(values: torch.Tensor, graph_of_atom: torch.Tensor, graphs: int) -> torch.Tensor:
    """values [N, F], graph_of_atom [N] -> [graphs, F]."""
    return values.new_zeros(graphs, values.shape[1]).index_add_(0, graph_of_atom, values)


def padded_places(counts: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the places of ragged rows in a table with as many columns for each group as the largest needs.

    counts [groups]; group [rows], not decreasing -> places [rows] in 0..groups * columns, columns. Waits for the
    device once, for the largest count.
    """
    most = int(counts.max()) if len(counts) else 0
    starts = counts.cumsum(0) - counts
    shift = torch.arange(len(counts), device=counts.device) * most - starts
    return torch.arange(len(group), device=group.device) + shift.index_select(0, group), most
