"""CGCNN (Xie & Grossman 2018, doi 10.1103/PhysRevLett.120.145301) over a list of edges: any number an atom."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.features import element_table
from hpc_kit.models.compiling import left_alone
from hpc_kit.models.layers import (
    BatchNorm,
    Linear,
    SumOverRanks,
    clamped_exp,
    gradients_by_formula,
    linear,
    sum_by_graph,
    sum_over_ranks,
)
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import CGCNN as Spec

# On the CPU edges are worked on a piece at a time, so that what is computed of them stays in the cache; the pieces of
# a group of edges differ in distance.
PIECE, GROUP = 4096, 16 * 4096


class Edges(NamedTuple):
    """What is convolved over: src, dst [E]; basis [E, K] of the distance; degrees [2, N], how often an atom is dst
    and how often src; pieces: slices of edges, each with the slice of the basis that is not zero there."""

    src: Tensor
    dst: Tensor
    basis: Tensor
    degrees: Tensor
    pieces: list[tuple[slice, slice]]


class CGCNN(GraphModel):
    """Element features refined by convolutions over the neighbours, their mean over a crystal, dense layers.

    An element that element_table does not describe makes the output NaN.
    """

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        table = torch.from_numpy(element_table())
        self.register_buffer("elements", torch.nan_to_num(table), persistent=False)
        self.register_buffer("unknown", table[:, :1] * 0.0, persistent=False)  # 0, or NaN
        self.basis = GaussianDistance(graph.cutoff, spec.gaussian_step)
        features, hidden = spec.atom_features, spec.hidden
        self.embedding = Linear(table.shape[1], features)
        bins = len(self.basis.centres)
        self.convolutions = nn.ModuleList(Convolution(features, bins) for _ in range(spec.convolutions))
        self.pooled = Linear(features, hidden)
        self.dense = nn.ModuleList(Linear(hidden, hidden) for _ in range(spec.hidden_layers - 1))
        self.output = Linear(hidden, targets)

    def pairs(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return src, dst [E] and distance [E] Angstrom of the pairs of atoms that are convolved over."""
        return batch.src, batch.dst, batch.edge_vectors().norm(dim=-1)

    def start(self, batch: GraphBatch) -> Tensor:
        """Return [N, atom_features]: a linear layer of each atom's element features."""
        return (self.embedding(self.elements) + self.unknown).index_select(0, batch.z)

    def embed(self, batch: GraphBatch) -> Tensor:
        """Return [N, atom_features]: each atom after the last convolution, before atoms are pooled."""
        edges = self.basis.edges(*self.pairs(batch), atoms=len(batch.z))
        x = self.start(batch)
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x

    def head(self, features: Tensor, batch: GraphBatch) -> Tensor:
        """features [N, atom_features] -> [G, targets]: their mean over a crystal and the dense layers."""
        total = sum_by_graph(features, batch.graph_of_atom(), batch.graphs)
        h = nn.functional.softplus(total / batch.atom_ptr.diff().unsqueeze(1))
        h = nn.functional.softplus(self.pooled(h))
        for layer in self.dense:
            h = nn.functional.softplus(layer(h))
        return self.output(h)


class GaussianDistance(nn.Module):
    """exp(-(d - mu_k)^2 / step^2) for centres every `step` Angstrom from 0 to `radius` (GaussianDistance of the
    authors' code: twice as narrow a variance as `step` would be, and the last centre as numpy's arange rounds it)."""

    def __init__(self, radius: float, step: float):
        super().__init__()
        self.step = step
        centres = torch.from_numpy(np.arange(0.0, radius + step, step)).float()
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """distance [E] Angstrom -> [E, K]."""
        exponent = (distance.unsqueeze(1) - self.centres).square() / -(self.step**2)
        return clamped_exp(exponent)

    def edges(self, src: Tensor, dst: Tensor, distance: Tensor, atoms: int) -> Edges:
        """Return the pairs as Edges; on the CPU each GROUP of them sorted by distance, to 0.001 Angstrom."""
        pieces = [(slice(0, len(src)), slice(0, len(self.centres)))] if len(src) else []
        if distance.device.type == "cpu":
            group = torch.arange(len(src)) // GROUP
            order = torch.argsort((group << 20) + (distance.detach() * 1000).long())
            src, dst, distance = (values.index_select(0, order) for values in (src, dst, distance))
            pieces = [self._piece(start, distance.detach()) for start in range(0, len(src), PIECE)]
        ones = torch.ones_like(distance)
        degrees = torch.stack([ones.new_zeros(atoms).index_add_(0, ends, ones.detach()) for ends in (dst, src)])
        return Edges(src, dst, self(distance), degrees, pieces)

    def _piece(self, start: int, distance: Tensor) -> tuple[slice, slice]:
        """Return a piece and its centres, without those whose basis is below a hundredth of 1's rounding error."""
        near, far = distance[start : start + PIECE].aminmax()
        reach = self.step * math.sqrt(-math.log(torch.finfo(distance.dtype).eps / 100))
        first = max(0, math.ceil((float(near) - reach) / self.step))
        last = min(len(self.centres), math.floor((float(far) + reach) / self.step) + 1)
        return slice(start, start + PIECE), slice(first, max(first, last))


class Convolution(nn.Module):
    """v_i <- softplus(v_i + BN(sum_j sigmoid(z_f) * softplus(z_s))), z = BN(W [v_i, v_j, u_ij] + b): equation 5.

    The batch normalisations and the outer softplus are the authors' code's. W v_i and W v_j are computed an atom.
    """

    def __init__(self, features: int, bins: int):
        super().__init__()
        self.features = features
        self.full = Linear(2 * features + bins, 2 * features)
        self.message_norm = BatchNorm(2 * features)
        self.norm = BatchNorm(features)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """x [N, F] -> [N, F]."""
        f, norm = self.features, self.message_norm
        own, other, bond = self.full.weight.split([f, f, edges.basis.shape[1]], dim=1)
        nodes = linear(x, torch.cat([own, other]), nn.functional.pad(self.full.bias, (0, 2 * f)))
        to_dst, to_src = nodes.to(edges.basis.dtype).view(len(x), 2, 2, f).permute(1, 2, 0, 3).contiguous()
        bond = bond.view(2, f, -1).transpose(1, 2)
        weights = (bond, norm.weight.view(2, 1, f), norm.bias.view(2, 1, f))
        with torch.autocast(x.device.type, enabled=False):
            summed = _gated_sum(to_dst, to_src, edges.basis, *weights, edges, norm)
        return nn.functional.softplus(x + self.norm(summed))


@left_alone  # a loop over pieces, whose number depends on the batch
def _gated_sum(*arguments) -> Tensor:
    return _GatedSum.apply(*arguments)


class _GatedSum(torch.autograd.Function):
    """sum_j sigmoid(n_0) * softplus(n_1) of n = BN(z), z_ij = to_dst_i + to_src_j + basis_ij weight: [N, F].

    to_dst, to_src [2, N, F]; basis [E, K]; weight [2, K, F]; scale, shift [2, 1, F]: gamma and beta of BN.
    It keeps z and softplus(n_1) for its backward pass, and nothing else of the edges.
    """

    @staticmethod
    def forward(ctx, to_dst, to_src, basis, weight, scale, shift, edges, norm):
        src, dst, _, degrees, pieces = edges
        training, rows = norm.training, len(src)
        # The mean of z, known beforehand: what is subtracted from an atom costs nothing at its edges.
        centre = torch.zeros_like(scale)
        if training and rows:
            centre = (degrees[:1] @ to_dst + degrees[1:] @ to_src + basis.sum(0, keepdim=True) @ weight) / rows
        tables = torch.cat([to_dst - centre, to_src], dim=1)
        ends = torch.stack([dst, src + to_dst.shape[1]], dim=1)
        squares, kept = torch.zeros_like(scale), []
        for piece, centres in pieces:
            z = torch.bmm(basis[piece, centres].expand(2, -1, -1), weight[:, centres])
            for half in (0, 1):
                z[half] += nn.functional.embedding_bag(ends[piece], tables[half], mode="sum")
            if training:
                squares += (z * z).sum(1, keepdim=True)
            kept.append(z)
        if training:
            count = scale.new_full([1], rows)
            mean, deviation, count = norm.statistics([(count, centre.flatten(), squares.flatten())])
            mean, deviation = mean.view_as(scale) - centre, deviation.view_as(scale)
        else:
            count, mean = None, norm.running_mean.view_as(scale)
            deviation = (norm.running_var.view_as(scale) + norm.eps).rsqrt()
        factor = scale * deviation
        offset = shift - mean * factor
        summed = to_dst.new_zeros(to_dst.shape[1:])
        for number, (piece, _) in enumerate(pieces):
            gate, core = torch.addcmul(offset, kept[number], factor)
            soft = nn.functional.softplus(core)
            summed.index_add_(0, dst[piece], gate.sigmoid_().mul_(soft))
            kept.append(soft)
        ctx.save_for_backward(to_dst, to_src, basis, weight, scale, shift, src, dst, mean, deviation, count, *kept)
        ctx.pieces, ctx.eps = pieces, norm.eps
        return summed

    @staticmethod
    def backward(ctx, gradient):
        *inputs, src, dst, mean, deviation, count = ctx.saved_tensors[:11]
        if torch.is_grad_enabled():
            formula = partial(_gated_sum_formula, src, dst, mean, deviation, count, ctx.eps)
            return (*gradients_by_formula(formula, inputs, (gradient,)), None, None)
        _, _, basis, weight, scale, shift = inputs
        kept = ctx.saved_tensors[11:]
        factor = scale * deviation
        offset = shift - mean * factor
        of_shift, of_scale, of_normal = torch.zeros_like(scale), torch.zeros_like(scale), []
        for (piece, _), z, soft in zip(ctx.pieces, kept, kept[len(ctx.pieces) :], strict=False):
            both = torch.addcmul(offset, z, factor).sigmoid_()
            gated = gradient.index_select(0, dst[piece]).mul_(both[0])
            both[1] *= gated
            gated *= soft
            torch.addcmul(gated, both[0], gated, value=-1.0, out=both[0])
            of_normal.append(both)
            of_shift += both.sum(1, keepdim=True)
            of_scale += (z * both).sum(1, keepdim=True)
        of_scale = (of_scale - mean * of_shift) * deviation
        slope, level = torch.zeros_like(scale), torch.zeros_like(scale)
        if count is not None:  # what flows back through the mean and the variance, which are those of all ranks
            all_shift, all_scale = sum_over_ranks(torch.stack([of_shift, of_scale])) / count
            slope = -factor * deviation * all_scale
            level = -factor * all_shift - slope * mean
        nodes = (2, len(gradient), gradient.shape[1])
        to_dst, to_src = gradient.new_zeros(nodes), gradient.new_zeros(nodes)
        of_weight = torch.zeros_like(weight)
        of_basis = torch.zeros_like(basis) if ctx.needs_input_grad[2] else None
        for (piece, centres), z, both in zip(ctx.pieces, kept, of_normal, strict=False):
            both = torch.addcmul(level, z, slope).addcmul_(both, factor)
            for half in (0, 1):
                to_dst[half].index_add_(0, dst[piece], both[half])
                to_src[half].index_add_(0, src[piece], both[half])
            of_weight[:, centres] += torch.bmm(basis[piece, centres].t().expand(2, -1, -1), both)
            if of_basis is not None:
                of_basis[piece, centres] = torch.bmm(both, weight[:, centres].transpose(1, 2)).sum(0)
        return to_dst, to_src, of_basis, of_weight, of_scale, of_shift, None, None


def _gated_sum_formula(src, dst, mean, deviation, count, eps, to_dst, to_src, basis, weight, scale, shift):
    """What _GatedSum computes in torch's own operations: for second derivatives."""
    z = to_dst.index_select(1, dst) + to_src.index_select(1, src) + basis @ weight
    if count is not None:
        mean = SumOverRanks.apply(z.sum(1, keepdim=True)) / count
        deviation = (SumOverRanks.apply((z - mean).square().sum(1, keepdim=True)) / count + eps).rsqrt()
    gate, core = (z - mean) * deviation * scale + shift
    return torch.zeros_like(to_dst[0]).index_add(0, dst, torch.sigmoid(gate) * nn.functional.softplus(core))


def from_upstream(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a state dict of the authors' code to ours, for the list and the matrix form alike."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("convs.", "convolutions.").replace(".fc_full.", ".full.")
        key = key.replace(".bn1.", ".message_norm.").replace(".bn2.", ".norm.")
        key = key.replace("conv_to_fc.", "pooled.").replace("fcs.", "dense.").replace("fc_out.", "output.")
        renamed[key] = value
    return renamed
