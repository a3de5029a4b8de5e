"""TorchMD-NET's equivariant transformer (Thoelke & De Fabritiis 2022, arXiv:2202.02541): energies whose gradient is
meant to be taken. Where the paper and its code differ, the code is followed.
"""

import math
import re

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.edge_sums import PairedEdges, head_products, head_sums, silu_parts, vector_sums
from hpc_kit.models.layers import Linear, clamped_exp, sum_by_graph
from hpc_kit.models.pairs import has_reverses
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import TorchMDET as Spec

ELEMENTS = 100  # rows of both embeddings, as in the published code: up to Es


class TorchMDET(GraphModel):
    """Atoms with scalars x [N, F] and vectors [3, N, F], refined by `layers` attention layers, then gated to a sum.

    `shift` [1] is added to each graph's output: zero but in a checkpoint of TorchMD-NET's own.
    """

    linear_head = True

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        self.cutoff, self.reverses, self.readout = graph.cutoff, has_reverses(graph), spec.readout
        hidden = spec.hidden
        self.embedding = nn.Embedding(ELEMENTS, hidden)
        basis = {"expnorm": ExpNormalBasis, "gaussian": GaussianBasis}[spec.basis_kind]
        self.basis = basis(graph.cutoff, spec.basis, spec.trainable_basis)
        self.neighbors = NeighborEmbedding(hidden, spec.basis) if spec.neighbor_embedding else None
        self.layers = nn.ModuleList(Attention(spec, first=number == 0) for number in range(spec.layers))
        self.norm = nn.LayerNorm(hidden)
        self.gate = Gate(hidden, hidden // 2)
        self.lengths = _linear(hidden // 2, hidden // 2, bias=False)
        self.atomwise = nn.Sequential(_linear(hidden // 2 * 2, hidden // 2), nn.SiLU())
        self.output = _linear(hidden // 2, targets)
        self.register_buffer("shift", torch.zeros(1))

    def start(self, batch: GraphBatch) -> Tensor:
        """Return [N, hidden]: the embedding of each atom's element."""
        return self.embedding(batch.z)

    def embed(self, batch: GraphBatch) -> Tensor:
        """Return [N, hidden // 2]: what the last linear layer sees of each atom."""
        edges = Edges(batch, self.basis, self.cutoff, self.reverses)
        x, vectors = self.start(batch), None
        if self.neighbors is not None:
            x = self.neighbors(batch.z, x, edges)
        for layer in self.layers:
            x, vectors = layer(x, vectors, edges)
        x, vectors = self.gate(self.norm(x), vectors)
        return self.atomwise(torch.cat([x, _length(self.lengths(vectors))], dim=1))

    def head(self, features: Tensor, batch: GraphBatch) -> Tensor:
        """features [N, hidden // 2] -> [G, targets]: the last linear layer, summed or averaged, plus `shift`."""
        per_atom = self.output(features)
        total = sum_by_graph(per_atom, batch.graph_of_atom(), batch.graphs)
        if self.readout == "mean":
            total = total / batch.atom_ptr.diff().unsqueeze(1)
        return total + self.shift


class Edges(PairedEdges):
    """What all layers see of a batch's edges, and of an atom's edge to itself.

    unit [E, 3], from dst to src; basis [P, R], basis_at_zero [1, R]; fade [P, 1], 1 at 0 and 0 at the cutoff.
    """

    def __init__(self, batch: GraphBatch, basis: nn.Module, cutoff: float, reverses: bool):
        super().__init__(batch, reverses)
        distance = self.vectors.norm(dim=1, keepdim=True)
        self.unit = self.turned(self.vectors / distance, -1.0)
        # The paper's cosine cutoff.
        self.fade = 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0) * (distance < cutoff)
        self.basis = basis(distance, self.fade)
        self.basis_at_zero = basis(distance.new_zeros(1, 1), distance.new_ones(1, 1))


class ExpNormalBasis(nn.Module):
    """fade exp(-beta_k (exp(-alpha d) - mu_k)^2), the paper's basis, with alpha = 5 / cutoff.

    mu_k lie evenly from exp(-cutoff) to 1, beta_k = (2 / count (1 - exp(-cutoff)))^-2, as in PhysNet (doi
    10.1021/acs.jctc.9b00181).
    """

    def __init__(self, cutoff: float, count: int, trainable: bool):
        super().__init__()
        self.alpha = 5.0 / cutoff
        start = math.exp(-cutoff)
        _keep(self, "means", torch.linspace(start, 1.0, count), trainable)
        _keep(self, "betas", torch.full((count,), (2.0 / count * (1.0 - start)) ** -2), trainable)

    def forward(self, distance: Tensor, fade: Tensor) -> Tensor:
        """distance, fade [P, 1], Angstrom -> [P, count]."""
        return fade * clamped_exp(-self.betas * (torch.exp(-self.alpha * distance) - self.means).square())


class GaussianBasis(nn.Module):
    """exp(coeff (d - offset_k)^2), offsets evenly from 0 to the cutoff, coeff = -1 / (2 spacing^2); never faded."""

    def __init__(self, cutoff: float, count: int, trainable: bool):
        super().__init__()
        offset = torch.linspace(0.0, cutoff, count)
        _keep(self, "offset", offset, trainable)
        _keep(self, "coeff", -0.5 / (offset[1] - offset[0]) ** 2, trainable)

    def forward(self, distance: Tensor, _: Tensor) -> Tensor:
        """distance [P, 1] Angstrom -> [P, count]."""
        return clamped_exp(self.coeff * (distance - self.offset).square())


class NeighborEmbedding(nn.Module):
    """x_i <- W [x_i, sum_j fade filter(d_ij) e'(z_j)], e' an embedding of its own: the paper's equation 3."""

    def __init__(self, hidden: int, basis: int):
        super().__init__()
        self.embedding = nn.Embedding(ELEMENTS, hidden)
        self.filter = _linear(basis, hidden)
        self.combine = _linear(2 * hidden, hidden)

    def forward(self, z: Tensor, x: Tensor, edges: Edges) -> Tensor:
        weight = self.filter(edges.basis).to(x.dtype) * edges.fade
        heard = head_sums(weight.new_ones(len(edges.src), 1), self.embedding(z), weight, edges)
        return self.combine(torch.cat([x, heard], dim=1)).to(x.dtype)


class Attention(nn.Module):
    """One update of scalars x [N, F] and vectors [3, N, F]: the paper's modified attention and its update layer.

    An atom attends to its neighbours and, at distance 0, to itself. The `first` layer's vectors are zero: it has no
    weights for what would be made of them.
    """

    def __init__(self, spec: Spec, first: bool):
        super().__init__()
        hidden, influence = spec.hidden, spec.distance_influence
        self.first, self.heads, self.hidden, self.vector_cutoff = first, spec.heads, hidden, spec.vector_cutoff
        self.keys, self.values = influence in ("keys", "both"), influence in ("values", "both")
        # What an atom sends: a scalar, a vector along the edge and, from its own vectors, a turned copy of them.
        sent = 2 if first else 3
        self.norm = nn.LayerNorm(hidden)
        self.project = _linear(hidden, hidden, hidden, (sent, 3, hidden))
        filters = [hidden] * self.keys + [(sent, 3, hidden)] * self.values
        self.filter = _linear(spec.basis, *filters) if filters else None
        self.out = _linear(hidden, (1 if first else 3, 3, hidden))
        self.mix = None if first else _linear(hidden, (3, 3, hidden), bias=False)

    def forward(self, x: Tensor, vectors: Tensor | None, edges: Edges) -> tuple[Tensor, Tensor]:
        heads = self.heads
        query, key, scalar, along, *own = self.project(self.norm(x)).to(x.dtype).split(x.shape[1], dim=1)
        key_filter, *filters = self._filters(edges.basis, x)
        key_self, scalar_self, _, *own_self = self._filters(edges.basis_at_zero, x)
        if self.vector_cutoff:
            filters[1:] = [weight * edges.fade for weight in filters[1:]]

        attention = silu(head_products(query, key, key_filter, edges, heads)) * edges.turned(edges.fade)
        to_self = silu(_by_head(query * key * key_self, heads).sum(dim=2, keepdim=True))
        heard = head_sums(attention, scalar, filters[0], edges)
        heard = heard + (_by_head(scalar * scalar_self, heads) * to_self).view_as(x)
        if self.first:
            return x + self.out(heard), vector_sums(None, None, along, filters[1], edges.unit, edges)

        sent = vectors * own[0]
        pulled = vector_sums(sent, filters[2], along, filters[1], edges.unit, edges) + sent * own_self[0]
        one, two, three = self.mix(vectors).to(x.dtype).split(x.shape[1], dim=2)
        gate, scale, shift = self.out(heard).to(x.dtype).split(x.shape[1], dim=1)
        return x + (one * two).sum(dim=0) * scale + shift, vectors + three * gate + pulled

    def _load_from_state_dict(self, state, prefix, *how):
        """Take values in TorchMD-NET's order too (from_upstream): by head, each scalar, own, along."""
        for name in [name for name in state if name.startswith(prefix) and ".by_head." in name]:
            rows = state.pop(name)
            plain, values = rows.split([len(rows) - 3 * self.hidden, 3 * self.hidden])
            scalar, own, along = values.unflatten(0, (self.heads, 3, -1)).transpose(0, 1).flatten(1, 2)
            blocks = [plain, scalar, along] + [own] * (not self.first)
            state[name.replace(".by_head.", ".")] = torch.cat(blocks)
        super()._load_from_state_dict(state, prefix, *how)

    def _filters(self, basis: Tensor, x: Tensor) -> list[Tensor]:
        """basis [P, R] -> [P, F] each for the key and for all that is sent: one where distance has no influence."""
        given = () if self.filter is None else silu_parts(self.filter(basis).to(x.dtype), self.hidden)
        one = x.new_ones(1, 1).expand(len(basis), x.shape[1])
        keys, values = given[: self.keys], given[self.keys :]
        return [*(keys or [one]), *(values or [one] * (2 if self.first else 3))]


class Gate(nn.Module):
    """Scalars and the lengths of the vectors make new scalars and a factor for the vectors: the gated equivariant
    block of PaiNN (Schuett et al. 2021, arXiv:2102.03150, figure 3), from `hidden` to `out` features."""

    def __init__(self, hidden: int, out: int):
        super().__init__()
        self.lengths = _linear(hidden, hidden, bias=False)
        self.turn = _linear(hidden, out, bias=False)
        self.update = nn.Sequential(_linear(2 * hidden, hidden), nn.SiLU(), _linear(hidden, (2, 2, out)))

    def forward(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        new, factor = self.update(torch.cat([x, _length(self.lengths(vectors))], dim=1)).chunk(2, dim=1)
        return silu(new), self.turn(vectors) * factor


def _length(vectors: Tensor) -> Tensor:
    """[3, N, F] -> [N, F]; where it is zero, so are its derivatives."""
    square = vectors.square().sum(dim=0)
    return torch.where(square > 0.0, square, 1.0).sqrt() * (square > 0.0)


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.view(len(x), heads, x.shape[1] // heads)


def _linear(inputs: int, *outputs: int | tuple[int, int, int], bias: bool = True) -> Linear:
    """Return a linear layer that stands for several, its weights drawn as those of each (Xavier), its biases zero.

    An output (kept, of, size) stands for `kept` blocks of the `of` blocks of that size that the published layer has.
    """
    blocks = [
        (output, output) if isinstance(output, int) else (output[0] * output[2], output[1] * output[2])
        for output in outputs
    ]
    layer = Linear(inputs, sum(rows for rows, _ in blocks), bias=bias)
    for weight, (_, published) in zip(layer.weight.split([rows for rows, _ in blocks]), blocks, strict=True):
        nn.init.uniform_(weight, -(bound := math.sqrt(6.0 / (inputs + published))), bound)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _keep(module: nn.Module, name: str, value: Tensor, trainable: bool) -> None:
    """Give `module` a tensor that is part of its state, and trained if `trainable`."""
    if trainable:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)


# TorchMD-NET's names, and ours; the first pattern that matches a whole name counts.
_NAMES = [
    (r"representation_model\.(embedding)\.(weight)", "{0}.{1}"),
    (r"representation_model\.distance_expansion\.(means|betas|offset|coeff)", "basis.{0}"),
    (r"representation_model\.neighbor_embedding\.(embedding|combine)\.(\w+)", "neighbors.{0}.{1}"),
    (r"representation_model\.neighbor_embedding\.distance_proj\.(\w+)", "neighbors.filter.{0}"),
    (r"representation_model\.attention_layers\.(\d+)\.layernorm\.(\w+)", "layers.{0}.norm.{1}"),
    (r"representation_model\.attention_layers\.(\d+)\.o_proj\.(\w+)", "layers.{0}.out.{1}"),
    (r"representation_model\.attention_layers\.(\d+)\.vec_proj\.(\w+)", "layers.{0}.mix.{1}"),
    (r"representation_model\.out_norm\.(\w+)", "norm.{0}"),
    (r"output_model\.output_network\.0\.vec1_proj\.(\w+)", "gate.lengths.{0}"),
    (r"output_model\.output_network\.0\.vec2_proj\.(\w+)", "gate.turn.{0}"),
    (r"output_model\.output_network\.0\.update_net\.(?:layers\.)?([02])\.(\w+)", "gate.update.{0}.{1}"),
    (r"output_model\.output_network\.1\.vec1_proj\.(\w+)", "lengths.{0}"),
    (r"output_model\.output_network\.1\.update_net\.(?:layers\.)?0\.(\w+)", "atomwise.0.{0}"),
    (r"output_model\.output_network\.1\.update_net\.(?:layers\.)?2\.(\w+)", "output.{0}"),
]
# Those whose result is never used: the first layer's vectors are zero, the last block's vectors are not read.
_UNUSED = {
    "representation_model.attention_layers.0.vec_proj.weight",
    "output_model.output_network.1.vec2_proj.weight",
}


def from_upstream(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of torchmd-net (model equivariant-transformer, output_model Scalar) under our names.

    Takes the names of old and new versions, with or without Lightning's `model.`. Layers that are one here are
    joined. Left out is what has no effect: _UNUSED, the first layer's blocks that act on its vectors, the second row
    of the last layer, embeddings beyond ELEMENTS. `std` multiplies the last layer, `mean` becomes `shift`. Other
    names, such as those of a prior, stay as they are.
    """
    state = {name.removeprefix("model."): value for name, value in state.items()}
    std = state.pop("std", None)
    ours: dict[str, Tensor] = {"shift": state.pop("mean").reshape(1)} if "mean" in state else {}
    for name, value in state.items():
        if name in _UNUSED:
            continue
        layer = re.fullmatch(r"representation_model\.attention_layers\.(\d+)\.(q|k|v|dk|dv)_proj\.(\w+)", name)
        if layer is None:
            found = ((re.fullmatch(pattern, name), new) for pattern, new in _NAMES)
            ours[next((new.format(*match.groups()) for match, new in found if match), name)] = value
            continue
        number, part, kind = layer.groups()
        names = ("dk", "dv") if part in ("dk", "dv") else ("q", "k", "v")
        stem = f"representation_model.attention_layers.{number}."
        parts = [state[f"{stem}{p}_proj.{kind}"] for p in names if f"{stem}{p}_proj.{kind}" in state]
        by_head = "" if part == "dk" and len(parts) == 1 else ".by_head"
        ours[f"layers.{number}.{'filter' if names[0] == 'dk' else 'project'}{by_head}.{kind}"] = torch.cat(parts)
    for name in [name for name in ours if name.startswith("layers.0.out.")]:
        ours[name] = ours[name].chunk(3)[2]
    for name in [name for name in ours if name.startswith("output.")]:
        ours[name] = ours[name][:1] if std is None else ours[name][:1] * std
    for name in [name for name in ours if name.endswith("embedding.weight")]:
        ours[name] = ours[name][:ELEMENTS]
    return ours
