"""MPNN's enn-s2s (Gilmer et al. 2017, arXiv:1704.01212) of torch_geometric's layers, after its example
examples/qm9_nn_conv.py, with a Gaussian expansion of the distance as the edge's features."""

from collections.abc import Callable

import numpy as np
import pyg_data
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import NNConv
from torch_geometric.nn.aggr import Set2Set
from torch_geometric.nn.models.schnet import GaussianSmearing

LIBRARIES = pyg_data.LIBRARIES


class MPNN(nn.Module):
    def __init__(self, spec: dict, cutoff: float):
        super().__init__()
        d = spec["hidden"]
        self.steps = spec["steps"]
        self.embedding = nn.Embedding(119, d)
        self.basis = GaussianSmearing(0.0, cutoff, spec["gaussians"])
        network = nn.Sequential(
            nn.Linear(spec["gaussians"], spec["edge_hidden"]), nn.ReLU(), nn.Linear(spec["edge_hidden"], d * d)
        )
        self.conv = NNConv(d, d, network, aggr="add", root_weight=False, bias=False)
        self.gru = nn.GRU(d, d)
        self.lin0 = nn.Linear(2 * d, d)
        self.set2set = Set2Set(d, processing_steps=spec["set2set_steps"])
        self.lin1, self.lin2 = nn.Linear(2 * d, d), nn.Linear(d, 1)

    def forward(self, data: Data) -> torch.Tensor:
        basis = self.basis(pyg_data.distances(data))
        start = out = self.embedding(data.z)
        h = out.unsqueeze(0)
        for _ in range(self.steps):
            message = self.conv(out, data.edge_index, basis)
            out, h = self.gru(message.unsqueeze(0), h)
            out = out.squeeze(0)
        out = self.set2set(self.lin0(torch.cat([out, start], dim=1)), data.batch)
        return self.lin2(torch.relu(self.lin1(out)))


def make(graphs: dict[str, np.ndarray], settings: dict) -> Callable[[], None]:
    """Return a function that trains one epoch."""
    torch.manual_seed(settings["seed"])
    return pyg_data.trainer(MPNN(settings["model"], settings["graph"]["cutoff"]), graphs, settings)
