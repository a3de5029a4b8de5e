"""SchNet (Schuett et al. 2017, arXiv:1706.08566): continuous-filter convolutions over interatomic distances."""

import math

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.layers import GaussianBasis, ShiftedSoftplus, sum_by_graph
from hpc_kit.spec.job import Graph
from hpc_kit.spec.models import SchNet as Spec


class SchNet(nn.Module):
    """Atom embeddings refined by `interactions` blocks, then an atom-wise network and a sum or mean over atoms."""

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        self.cutoff = graph.cutoff
        self.readout = spec.readout
        hidden, filters, gaussians = spec.hidden, spec.filters, spec.gaussians
        self.embedding = nn.Embedding(119, hidden)
        self.basis = GaussianBasis(graph.cutoff, gaussians)
        self.blocks = nn.ModuleList(Interaction(hidden, filters, gaussians) for _ in range(spec.interactions))
        self.atomwise = nn.Sequential(nn.Linear(hidden, hidden // 2), ShiftedSoftplus())
        self.output = nn.Linear(hidden // 2, targets)

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden // 2]: what the last linear layer sees of each atom."""
        distance = batch.edge_vectors().norm(dim=-1)
        basis = self.basis(distance)
        # Filters fade to zero at the cutoff (Behler & Parrinello 2007, doi 10.1103/PhysRevLett.98.146401, eq. 4).
        fade = 0.5 * (torch.cos(distance * (math.pi / self.cutoff)) + 1.0) * (distance < self.cutoff)
        x = self.embedding(batch.z)
        for block in self.blocks:
            x = x + block(x, basis, fade, batch.src, batch.dst)
        return self.atomwise(x)

    def forward(self, batch: GraphBatch) -> torch.Tensor:
        """Return [G, targets]."""
        per_atom = self.output(self.embed(batch))
        total = sum_by_graph(per_atom, batch.graph_of_atom(), batch.graphs)
        if self.readout == "mean":
            return total / batch.atom_ptr.diff().unsqueeze(1)
        return total


class Interaction(nn.Module):
    """x_i <- W2 ssp(W1 sum_j (Win x_j) * filter(d_ij)): figure 2, right, of the paper."""

    def __init__(self, hidden: int, filters: int, gaussians: int):
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(gaussians, filters), ShiftedSoftplus(), nn.Linear(filters, filters))
        self.project = nn.Linear(hidden, filters, bias=False)
        self.update = nn.Sequential(nn.Linear(filters, hidden), ShiftedSoftplus(), nn.Linear(hidden, hidden))

    def forward(
        self, x: torch.Tensor, basis: torch.Tensor, fade: torch.Tensor, src: torch.Tensor, dst: torch.Tensor
    ) -> torch.Tensor:
        weight = self.filter(basis) * fade.unsqueeze(1)
        message = self.project(x).index_select(0, src) * weight
        gathered = message.new_zeros(len(x), message.shape[1]).index_add_(0, dst, message)
        return self.update(gathered)
