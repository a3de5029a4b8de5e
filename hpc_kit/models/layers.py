"""Layers that several models share."""

import math

import torch
from torch import nn


class ShiftedSoftplus(nn.Module):
    """ln(0.5 e^x + 0.5), smooth and zero at zero (Schuett et al. 2017, arXiv:1706.08566, section 4.1)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.softplus(x) - math.log(2.0)


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
        return torch.exp(-self.gamma * (distance.unsqueeze(-1) - self.centres).square())


class BatchNorm(nn.BatchNorm1d):
    """torch's BatchNorm1d: [N, F] -> [N, F], with the same state."""


def sum_by_graph(values: torch.Tensor, graph_of_atom: torch.Tensor, graphs: int) -> torch.Tensor:
    """values [N, F], graph_of_atom [N] -> [graphs, F]."""
    return values.new_zeros(graphs, values.shape[1]).index_add_(0, graph_of_atom, values)
