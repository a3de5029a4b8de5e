"""Sums over neighbours of atoms' features times a filter of the distance, which an edge shares with its reverse."""

import torch

from hpc_kit.models.pairs import Pairs


def filtered_sum(x: torch.Tensor, weight: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Return [N, F]: sum over the neighbours j of i of x_j * weight_ij; x [N, F], weight [P, F] of the same dtype.

    Its derivatives are of the same kind, so that it can be differentiated any number of times; the gathered rows
    of x are kept neither for them nor beside each other.
    """
    return _FilteredSum.apply(x, weight, *pairs[1:])


class _FilteredSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, src, dst, both):
        ctx.save_for_backward(x, weight, src, dst)
        ctx.both = both
        out = torch.zeros_like(x).index_add_(0, dst, x.index_select(0, src).mul_(weight))
        return out.index_add_(0, src, x.index_select(0, dst).mul_(weight)) if both else out

    @staticmethod
    def backward(ctx, gradient):
        x, weight, src, dst = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _FilteredSum.apply(gradient, weight, dst, src, ctx.both)
        if ctx.needs_input_grad[1]:
            of_weight = _EndsProduct.apply(gradient, x, src, dst, ctx.both)
        return of_x, of_weight, None, None, None


class _EndsProduct(torch.autograd.Function):
    """a, b [N, F] -> [P, F]: a_dst * b_src, plus a_src * b_dst where a pair stands for both directions."""

    @staticmethod
    def forward(ctx, a, b, src, dst, both):
        ctx.save_for_backward(a, b, src, dst)
        ctx.both = both
        out = a.index_select(0, dst).mul_(b.index_select(0, src))
        return out.addcmul_(a.index_select(0, src), b.index_select(0, dst)) if both else out

    @staticmethod
    def backward(ctx, gradient):
        a, b, src, dst = ctx.saved_tensors
        of_a = of_b = None
        if ctx.needs_input_grad[0]:
            of_a = _FilteredSum.apply(b, gradient, src, dst, ctx.both)
        if ctx.needs_input_grad[1]:
            of_b = _FilteredSum.apply(a, gradient, dst, src, ctx.both)
        return of_a, of_b, None, None, None
