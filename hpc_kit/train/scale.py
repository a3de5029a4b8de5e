"""Standardised targets: what a model is fitted to, and the way back to the target's own unit."""

from dataclasses import dataclass

import numpy as np
import torch

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.loader import Dataset


@dataclass(frozen=True)
class Scale:
    """target = std * output + mean, with the mean counted per atom where outputs are sums over atoms.

    A sum over atoms cannot represent a constant offset, hence the difference (as in SchNetPack).
    """

    mean: float
    std: float
    per_atom: bool

    def standardize(self, batch: GraphBatch) -> torch.Tensor:
        """Return the batch's targets as the model is to output them, [G, 1]."""
        return (batch.targets - self._offset(batch)) / self.std

    def restore(self, output: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """Return outputs [G, 1] in the target's own unit."""
        return output * self.std + self._offset(batch)

    def _offset(self, batch: GraphBatch) -> torch.Tensor | float:
        return self.mean * batch.atom_ptr.diff().unsqueeze(1) if self.per_atom else self.mean


def fit_scale(data: Dataset | GraphStore, train: np.ndarray, per_atom: bool) -> Scale:
    """Take mean and standard deviation from the graphs `train` and from no others."""
    known = data.target[train]
    atoms = data.atoms_per_graph[train] if per_atom else np.ones(len(train))
    mean = float((known / atoms).mean())
    return Scale(mean, float((known - mean * atoms).std()) or 1.0, per_atom)
