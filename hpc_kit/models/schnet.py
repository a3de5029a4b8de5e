"""SchNet (Schuett et al. 2017, arXiv:1706.08566): continuous-filter convolutions over interatomic distances."""

import math
import re

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.filtered import filtered_sum
from hpc_kit.models.layers import GaussianBasis, Linear, ShiftedSoftplus, sum_by_graph
from hpc_kit.models.pairs import Pairs, distances, has_reverses, pairs_of
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import SchNet as Spec

# Names in torch_geometric's state, and ours.
_UPSTREAM = [
    (r"^interactions\.(\d+)\.mlp\.([02])\.(weight|bias)$", r"blocks.\1.filter.\2.\3"),
    (r"^interactions\.(\d+)\.conv\.lin1\.weight$", r"blocks.\1.project.weight"),
    (r"^interactions\.(\d+)\.conv\.lin2\.(weight|bias)$", r"blocks.\1.update.0.\2"),
    (r"^interactions\.(\d+)\.lin\.(weight|bias)$", r"blocks.\1.update.2.\2"),
    (r"^lin1\.(weight|bias)$", r"atomwise.0.\1"),
    (r"^lin2\.(weight|bias)$", r"output.\1"),
]


class SchNet(GraphModel):
    """Atom embeddings refined by `interactions` blocks, then an atom-wise network and a sum or mean over atoms."""

    linear_head = True

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        self.cutoff = graph.cutoff
        self.points = spec.filter_points
        self.reverses = has_reverses(graph)
        self.readout = spec.readout
        hidden, filters, gaussians = spec.hidden, spec.filters, spec.gaussians
        self.embedding = nn.Embedding(119, hidden)
        self.basis = GaussianBasis(graph.cutoff, gaussians)
        self.blocks = nn.ModuleList(Interaction(hidden, filters, gaussians) for _ in range(spec.interactions))
        self.atomwise = nn.Sequential(Linear(hidden, hidden // 2), ShiftedSoftplus())
        self.output = Linear(hidden // 2, targets)
        for layer in self.modules():
            if isinstance(layer, Linear):  # as the authors' SchNetPack and torch_geometric start them
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def start(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden]: the embedding of each atom's element."""
        return self.embedding(batch.z)

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden // 2]: what the last linear layer sees of each atom."""
        pairs = pairs_of(batch, self.reverses)
        distance = distances(batch, pairs)
        grid = None
        if self.points is not None:
            grid = Grid(distance, self.cutoff, self.points)
            distance = grid.distance
        basis = self.basis(distance)
        # Filters fade to zero at the cutoff (Behler & Parrinello 2007, doi 10.1103/PhysRevLett.98.146401, eq. 4).
        fade = 0.5 * (torch.cos(distance * (math.pi / self.cutoff)) + 1.0) * (distance < self.cutoff)
        fade = fade.unsqueeze(1)
        x = self.start(batch)
        for block in self.blocks:
            x = x + block(x, basis, fade, pairs, grid)
        return self.atomwise(x)

    def head(self, features: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """features [N, hidden // 2] -> [G, targets]: the last linear layer, summed or averaged over the atoms."""
        per_atom = self.output(features)
        total = sum_by_graph(per_atom, batch.graph_of_atom(), batch.graphs)
        if self.readout == "mean":
            return total / batch.atom_ptr.diff().unsqueeze(1)
        return total


class Interaction(nn.Module):
    """x_i <- W2 ssp(W1 sum_j (Win x_j) * filter(d_ij)): figure 2, right, of the paper."""

    def __init__(self, hidden: int, filters: int, gaussians: int):
        super().__init__()
        self.filter = nn.Sequential(Linear(gaussians, filters), ShiftedSoftplus(), Linear(filters, filters))
        self.project = Linear(hidden, filters, bias=False)
        self.update = nn.Sequential(Linear(filters, hidden), ShiftedSoftplus(), Linear(hidden, hidden))

    def forward(
        self, x: torch.Tensor, basis: torch.Tensor, fade: torch.Tensor, pairs: Pairs, grid: "Grid | None"
    ) -> torch.Tensor:
        """x [N, hidden] -> [N, hidden]; basis [D, gaussians], fade [D, 1] of the pairs, or of the grid's points."""
        weight = self.filter(basis) * fade
        if grid is not None:
            weight = grid.interpolate(weight)
        return self.update(filtered_sum(self.project(x).to(weight.dtype), weight, pairs))


class Grid:
    """Values at `points` even distances from 0 to the cutoff, interpolated by cubic convolution (Keys 1981,
    doi 10.1109/TASSP.1981.1163711, a = -1/2), whose derivative, and so a force, is continuous.

    `distance` [points + 2] Angstrom has one point more at each end.
    """

    def __init__(self, distance: torch.Tensor, cutoff: float, points: int):
        step = cutoff / (points - 1)
        self.distance = step * torch.arange(-1, points + 1, dtype=distance.dtype, device=distance.device)
        self.cell = (distance.detach() / step).long().clamp(max=points - 2)
        t = (distance / step - self.cell).clamp(max=1.0).unsqueeze(1)
        self.shares = (
            ((1.0 - 0.5 * t) * t - 0.5) * t,
            (1.5 * t - 2.5) * t.square() + 1.0,
            ((2.0 - 1.5 * t) * t + 0.5) * t,
            (0.5 * t - 0.5) * t.square(),
        )

    def interpolate(self, values: torch.Tensor) -> torch.Tensor:
        """values [points + 2, F] -> [P, F]."""
        return sum(share * values.index_select(0, self.cell + k) for k, share in enumerate(self.shares))


def from_upstream(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the state (or gradients) of torch_geometric's SchNet to ours.

    Left out: its Gaussians' places, which are not stored here, and the filter network's second copy, kept under
    `conv.nn`. Its 100 embeddings become 119, of which it does not know the last.
    """
    renamed = {}
    for key, value in state.items():
        if key == "distance_expansion.offset" or ".conv.nn." in key:
            continue
        for theirs, ours in _UPSTREAM:
            key = re.sub(theirs, ours, key)
        if key == "embedding.weight" and len(value) == 100:
            value = torch.cat([value, value.new_zeros(19, value.shape[1])])
        renamed[key] = value
    return renamed
