"""The edge-gated graph convolution (Bresson & Laurent 2017, arXiv:1711.07553, eq. 11), as ALIGNN has it."""

from functools import partial

import torch
from torch import nn

from hpc_kit.models.compiling import left_alone
from hpc_kit.models.layers import (
    BatchNorm,
    Linear,
    add_sums,
    gradients_by_formula,
    linear,
    moments,
    normalised,
    pieces,
    product,
    scale_and_offset,
    through_statistics,
    wide,
)

EPSILON = 1e-6  # in the sum of gates: upstream's


class EdgeGatedConv(nn.Module):
    """x_i <- x_i + SiLU(BN(A x_i + sum_j g_ij B x_j / sum_j g_ij)), y_ij <- y_ij + SiLU(BN(m_ij)), over edges j -> i
    with m_ij = C x_j + D x_i + E y_ij and g = sigmoid(m): Choudhary & DeCost 2021, doi 10.1038/s41524-021-00650-1,
    eqs. 1-3. Without `edges` there is no new y.
    """

    def __init__(self, hidden: int, edges: bool = True):
        super().__init__()
        names = ("src_gate", "dst_gate", "edge_gate", "src_update", "dst_update")
        for name in names:
            self.add_module(name, Linear(hidden, hidden))
        self.bn_nodes = BatchNorm(hidden)
        self.bn_edges = BatchNorm(hidden) if edges else None

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, src: torch.Tensor, dst: torch.Tensor, kind: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x [n, F] of nodes, y [E, F] of edges -> both new; with kind [E], y is [U, F] and edge e has y[kind[e]]."""
        # One product for all that a node gives. Every bias of m is added here, where rows are fewest.
        layers = (self.src_gate, self.dst_update, self.dst_gate, self.src_update)
        biases = (self.src_gate.bias + self.edge_gate.bias, *(layer.bias for layer in layers[1:]))
        nodes = linear(x, torch.cat([layer.weight for layer in layers]), torch.cat(biases))
        h, y = _edge_gate(y, self.edge_gate.weight, nodes, src, dst, kind, self.bn_edges)
        return self.bn_nodes(h, silu=True, residual=x), y


@left_alone  # a loop over blocks, whose number depends on the batch
def _edge_gate(y, weight, nodes, src, dst, kind, norm):
    with torch.autocast(y.device.type, enabled=False):
        affine = (None, None) if norm is None else (norm.weight, norm.bias)
        return EdgeGate.apply(y, weight.to(y.dtype), nodes, *affine, src, dst, kind, norm)


class EdgeGate(torch.autograd.Function):
    """h_i = A x_i + sum_j g_ij B x_j / (sum_j g_ij + 1e-6) [n, F]; and with `norm` the new y [E, F].

    y [U, F]; weight [F, F] of E y; nodes [n, 4 F]: C x, B x, D x, A x side by side. Works through blocks of edges
    that stay in the cache from the product to the sums, and keeps m alone for backward.
    """

    @staticmethod
    def forward(ctx, y, weight, nodes, scale, offset, src, dst, kind, norm):
        ctx.set_materialize_grads(False)
        src_gate, message, dst_gate, own = (part.to(wide(y)).contiguous() for part in nodes.split(y.shape[1], 1))
        m = y.new_empty(len(src), y.shape[1])
        gates, messages = torch.zeros_like(own), torch.zeros_like(own)
        every, of_edge = (None, y) if kind is None else (product(y, weight), kind)
        found = []
        for part, j, i, old in pieces(m, src, dst, of_edge):
            new = product(old, weight) if kind is None else every.index_select(0, old)
            torch.add(new, src_gate.index_select(0, j), out=part).add_(dst_gate.index_select(0, i))
            if norm is not None and norm.training:
                found.append(moments(part))
            gate = torch.sigmoid(part.to(gates.dtype))
            gates.index_add_(0, i, gate)
            messages.index_add_(0, i, gate.mul_(message.index_select(0, j)))
        gates += EPSILON
        mean = messages.div_(gates)
        h = (own + mean).to(nodes.dtype)
        ctx.norm = None if norm is None else (norm.eps, *norm.statistics(found))
        ctx.save_for_backward(y, weight, nodes, scale, offset, src, dst, kind, m, gates, mean)
        if norm is None:
            return h, None
        a, b = scale_and_offset(scale, offset, *ctx.norm[1:3])
        out = torch.empty_like(m)
        for part, new, old in pieces(m, out, of_edge):
            step = nn.functional.silu(torch.addcmul(b, part.to(a.dtype), a), inplace=True)
            torch.add(step, old if kind is None else y.index_select(0, old), out=new)
        return h, out

    @staticmethod
    def backward(ctx, d_h, d_new):
        y, weight, nodes, scale, offset, src, dst, kind, m, gates, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            formula = partial(_formula, src=src, dst=dst, kind=kind, norm=ctx.norm)
            inputs = (y, weight, nodes, scale, offset)
            return (*gradients_by_formula(formula, inputs, (d_h, d_new)), *[None] * 4)
        d_h = torch.zeros_like(mean) if d_h is None else d_h.to(mean.dtype)
        d_mean = d_h / gates
        message = nodes.split(y.shape[1], 1)[1].to(mean.dtype).contiguous()
        d_src_gate, d_message, d_dst_gate = (torch.zeros_like(mean) for _ in range(3))
        d_weight = torch.zeros_like(weight, dtype=mean.dtype)
        d_y, d_every = (torch.empty_like(y), None) if kind is None else (None, torch.zeros_like(y, dtype=mean.dtype))
        d_scale = d_offset = None
        edges = d_new is not None
        if edges:
            _, centre, deviation, count = ctx.norm
            a, b = scale_and_offset(scale, offset, centre, deviation)
            sums = mean.new_zeros(2, y.shape[1])
            for part, d_part in pieces(m, d_new):
                part = part.to(a.dtype)
                step = torch.addcmul(b, part, a)
                torch.ops.aten.silu_backward(d_part.to(a.dtype), step, grad_input=step)
                add_sums(sums, step, part, centre)
            d_scale, d_offset = sums[1] * deviation, sums[0]
            level, slope = through_statistics(sums, a, centre, deviation, count)
        more = [d_new] if edges else []
        of_edge = [y, d_y] if kind is None else [kind, kind]
        for part, j, i, old, d_old, *d_part in pieces(m, src, dst, *of_edge, *more):
            part = part.to(mean.dtype)
            gate = torch.sigmoid(part)
            per_node = d_mean.index_select(0, i)
            d_m = message.index_select(0, j).sub_(mean.index_select(0, i)).mul_(per_node)
            d_message.index_add_(0, j, per_node.mul_(gate))
            torch.ops.aten.sigmoid_backward(d_m, gate, grad_input=d_m)
            if edges:
                d_m += torch.addcmul(level, part, slope)
                step = torch.addcmul(b, part, a)
                d_m.addcmul_(torch.ops.aten.silu_backward(d_part[0].to(a.dtype), step, grad_input=step), a)
            d_src_gate.index_add_(0, j, d_m)
            d_dst_gate.index_add_(0, i, d_m)
            if kind is not None:
                d_every.index_add_(0, old, d_m)
                continue
            d_m = d_m.to(y.dtype)
            d_weight += product(d_m.t(), old.t())
            if edges:
                torch.add(d_part[0], product(d_m, weight.t()), out=d_old)
            else:
                d_old.copy_(product(d_m, weight.t()))
        if kind is not None:
            d_every = d_every.to(y.dtype)
            d_weight += product(d_every.t(), y.t())
            d_y = product(d_every, weight.t())
            if edges:
                d_y.index_add_(0, kind, d_new)
        d_nodes = torch.cat([d_src_gate, d_message, d_dst_gate, d_h], 1).to(nodes.dtype)
        return d_y, d_weight.to(weight.dtype), d_nodes, d_scale, d_offset, *[None] * 4


def _formula(y, weight, nodes, scale, offset, src, dst, kind, norm):
    """What EdgeGate computes, in torch's own operations: for second derivatives."""
    src_gate, message, dst_gate, own = nodes.split(y.shape[1], 1)
    old = y if kind is None else y.index_select(0, kind)
    m = old @ weight.t() + src_gate.index_select(0, src) + dst_gate.index_select(0, dst)
    gate = torch.sigmoid(m)
    none = torch.zeros_like(own)
    messages = none.index_add(0, dst, gate * message.index_select(0, src))
    h = own + messages / (none.index_add(0, dst, gate) + EPSILON)
    if norm is None:
        return h, None
    return h, old + normalised(m, scale, offset, None, *norm[1:], True, norm[0])
