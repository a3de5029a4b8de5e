"""ALIGNN (Choudhary & DeCost 2021, doi 10.1038/s41524-021-00650-1): atoms, bonds and bond angles in turn.

Equal to `alignn.models.alignn` of the package alignn 2025.4.1; docs/models/alignn.md says where it does less work.
"""

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.features import element_table
from hpc_kit.data.line_graph import angle_cosines, line_graph
from hpc_kit.data.twins import equal_angles, equal_lengths, reverse_edges
from hpc_kit.models.edge_gate import EdgeGatedConv
from hpc_kit.models.layers import BatchNorm, Linear, clamped_exp, sum_by_graph
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import ALIGNN as Spec

LONGEST = 8.0  # Angstrom: the last centre of the bond lengths' basis, whatever the cutoff


class ALIGNN(GraphModel):
    """`alignn_layers` that update atoms from bonds and bonds from angles, `gcn_layers` that update atoms from bonds,
    and a linear function of the mean over atoms. Either number may be 0.

    What no output depends on is not there: the last convolution's new bonds, the last angle update's new angles, and
    without GCN layers the last ALIGNN layer's angle update altogether.
    """

    linear_head = True

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        hidden, layers, gcn = spec.hidden, spec.alignn_layers, spec.gcn_layers
        angle_updates = layers if gcn else max(layers - 1, 0)
        self.register_buffer("elements", torch.from_numpy(element_table()), persistent=False)
        self.atom_embedding = Embedding(self.elements.shape[1], hidden)
        widths = (spec.embedding, hidden)
        self.edge_embedding = expansion(0.0, LONGEST, spec.edge_bins, *widths) if layers + gcn else None
        self.angle_embedding = expansion(-1.0, 1.0, spec.triplet_bins, *widths) if angle_updates else None
        self.alignn_layers = nn.ModuleList()
        for number in range(layers):
            last = number == layers - 1
            layer = nn.ModuleDict({"node_update": EdgeGatedConv(hidden, edges=bool(gcn) or not last)})
            if number < angle_updates:
                layer["edge_update"] = EdgeGatedConv(hidden, edges=number < angle_updates - 1)
            self.alignn_layers.append(layer)
        self.gcn_layers = nn.ModuleList(EdgeGatedConv(hidden, edges=number < gcn - 1) for number in range(gcn))
        self.fc = Linear(hidden, targets)

    def start(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden]: the embedding of each atom's element features."""
        return self.atom_embedding(self.elements.index_select(0, batch.z))

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden]: each atom after the last convolution, before atoms are pooled."""
        x = self.start(batch)
        if self.edge_embedding is None:
            return x
        src, dst, atoms = batch.src, batch.dst, len(batch.z)
        vectors = batch.edge_vectors()
        reverse = reverse_edges(src, dst, batch.shift, atoms)
        bonds = equal_lengths(reverse)
        y = vectors.index_select(0, bonds.rows).norm(dim=1)
        for layer in self.edge_embedding:
            y = layer(y, bonds.repeats)
        kind = bonds.kind  # of the rows of y: every bond once at first, then in both directions
        if self.angle_embedding is not None:
            first, second = line_graph(src, dst, atoms)
            angles, zero = equal_angles(src, dst, atoms, reverse, first, second)
            z = angle_cosines(vectors, first.index_select(0, angles.rows), second.index_select(0, angles.rows))
            z = z.masked_fill(zero, 1.0)  # exactly, and of no gradient
            for layer in self.angle_embedding:
                z = layer(z, angles.repeats)
            angle = angles.kind
        for layer in self.alignn_layers:
            x, y = layer["node_update"](x, y, src, dst, kind)
            kind = None
            if "edge_update" in layer:
                y, z = layer["edge_update"](y, z, first, second, angle)
                angle = None
        for layer in self.gcn_layers:
            x, y = layer(x, y, src, dst, kind)
            kind = None
        return x

    def head(self, features: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """features [N, hidden] -> [G, targets]: a linear layer of their mean over the atoms."""
        total = sum_by_graph(features, batch.graph_of_atom(), batch.graphs)
        return self.fc(total / batch.atom_ptr.diff().unsqueeze(1))


class Embedding(nn.Module):
    """SiLU(BN(W x + b))."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.layer = nn.ModuleList([Linear(features, hidden), BatchNorm(hidden)])

    def forward(self, x: torch.Tensor, repeats: torch.Tensor | None = None) -> torch.Tensor:
        """x [N, features] -> [N, hidden]; repeats [N]: how often each row counts in the statistics."""
        linear, norm = self.layer
        return norm(linear(x), repeats, silu=True)


class Basis(nn.Module):
    """exp(-gamma (x - mu_k)^2) for `count` centres mu_k from `start` to `stop`, 1 / gamma apart.

    So upstream's RBFExpansion (alignn/models/utils.py) has it: the spacing is not squared.
    """

    def __init__(self, start: float, stop: float, count: int):
        super().__init__()
        centres = torch.linspace(start, stop, count)
        self.gamma = 1.0 / float(centres.diff().mean())
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
        """x [N] -> [N, count]; repeats: not used, as all layers of an expansion take it."""
        return clamped_exp((x.unsqueeze(1) - self.centres).square() * -self.gamma)


def expansion(start: float, stop: float, bins: int, embedding: int, hidden: int) -> nn.ModuleList:
    return nn.ModuleList([Basis(start, stop, bins), Embedding(bins, embedding), Embedding(embedding, hidden)])


def from_upstream(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict of alignn.models.alignn.ALIGNN without what its output does not depend on.

    The names are the same. Left out: the centres of the bases, which the settings give, and the layers whose result
    is never used (see ALIGNN).
    """
    layers, gcn = (_count(state, name) for name in ("alignn_layers", "gcn_layers"))
    unused = ["edge_embedding.0.", "angle_embedding.0."]
    if gcn:
        unused += [f"gcn_layers.{gcn - 1}.bn_edges.", f"alignn_layers.{layers - 1}.edge_update.bn_edges."]
    else:
        unused += [f"alignn_layers.{layers - 1}.{part}." for part in ("node_update.bn_edges", "edge_update")]
        unused += [f"alignn_layers.{layers - 2}.edge_update.bn_edges."]
    if not layers or layers + gcn == 1:
        unused += ["angle_embedding."]
    if not layers + gcn:
        unused += ["edge_embedding."]
    return {key: value for key, value in state.items() if not key.startswith(tuple(unused))}


def _count(state: dict[str, torch.Tensor], layers: str) -> int:
    return len({key.split(".")[1] for key in state if key.startswith(f"{layers}.")})
