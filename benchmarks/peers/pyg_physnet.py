"""PhysNet (Unke & Meuwly 2019, doi 10.1021/acs.jctc.9b00181) as one writes it with torch_geometric: the paper's
layers one after the other, messages by MessagePassing."""

import math
from collections.abc import Callable

import numpy as np
import pyg_data
import torch
from torch import nn
from torch.nn.functional import softplus
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing, global_add_pool, global_mean_pool
from torch_geometric.nn.models.schnet import ShiftedSoftplus

LIBRARIES = pyg_data.LIBRARIES


class Basis(nn.Module):
    def __init__(self, cutoff: float, count: int):
        super().__init__()
        self.cutoff = cutoff
        width = (0.5 * count / (1.0 - math.exp(-cutoff))) ** 2
        centres = torch.linspace(1.0, math.exp(-cutoff), count)
        self.centres = nn.Parameter(centres + torch.log(-torch.expm1(-centres)))
        self.widths = nn.Parameter(torch.full((count,), width))  # its own inverse softplus at this size

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        x = r / self.cutoff
        phi = torch.where(x < 1, 1 - 6 * x**5 + 15 * x**4 - 10 * x**3, 0.0)
        exponent = softplus(self.widths) * (torch.exp(-r).unsqueeze(1) - softplus(self.centres)) ** 2
        return phi.unsqueeze(1) * torch.exp(-exponent)


class Residual(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.activation = ShiftedSoftplus()
        self.first, self.second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.activation(self.first(self.activation(x))))


class Interaction(MessagePassing):
    def __init__(self, hidden: int, basis: int, residual: int):
        super().__init__(aggr="add")
        self.activation = ShiftedSoftplus()
        self.mask = nn.Linear(basis, hidden, bias=False)
        self.own, self.heard, self.update_ = (nn.Linear(hidden, hidden) for _ in range(3))
        self.residual = nn.Sequential(*(Residual(hidden) for _ in range(residual)))
        self.gate = nn.Parameter(torch.ones(hidden))

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        active = self.activation(x)
        heard = self.activation(self.heard(active))
        v = self.activation(self.own(active)) + self.propagate(edge_index, x=heard, basis=basis)
        return self.gate * x + self.update_(self.activation(self.residual(v)))

    def message(self, x_j: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        return self.mask(basis) * x_j


class PhysNet(nn.Module):
    def __init__(self, spec: dict, cutoff: float):
        super().__init__()
        hidden = spec["hidden"]
        if spec["electrostatics"]:
            raise ValueError("this peer has no electrostatics")
        self.pool = {"sum": global_add_pool, "mean": global_mean_pool}[spec["readout"]]
        self.embedding = nn.Embedding(119, hidden)
        self.basis = Basis(cutoff, spec["basis"])
        several = range(spec["interactions"])
        self.interactions = nn.ModuleList(
            Interaction(hidden, spec["basis"], spec["residual_interaction"]) for _ in several
        )
        self.atomic = nn.ModuleList(_residuals(hidden, spec["residual_atomic"]) for _ in several)
        self.refine = nn.ModuleList(_residuals(hidden, spec["residual_output"]) for _ in several)
        self.output = nn.ModuleList(nn.Linear(hidden, 1, bias=False) for _ in several)
        self.activation = ShiftedSoftplus()
        self.scale, self.shift = nn.Embedding(119, 1), nn.Embedding(119, 1)

    def forward(self, data: Data) -> torch.Tensor:
        basis = self.basis(pyg_data.distances(data))
        x, y = self.embedding(data.z), 0.0
        for block in zip(self.interactions, self.atomic, self.refine, self.output, strict=True):
            interaction, atomic, refine, output = block
            x = atomic(interaction(x, data.edge_index, basis))
            y = y + output(self.activation(refine(x)))
        return self.pool(self.scale(data.z) * y + self.shift(data.z), data.batch)


def _residuals(hidden: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(hidden) for _ in range(count)))


def make(graphs: dict[str, np.ndarray], settings: dict) -> Callable[[], None]:
    """Return a function that trains one epoch."""
    torch.manual_seed(settings["seed"])
    return pyg_data.trainer(PhysNet(settings["model"], settings["graph"]["cutoff"]), graphs, settings)
