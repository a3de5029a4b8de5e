"""Standardised targets: what a model is fitted to, and the way back to the targets' own units."""

from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.features import ELEMENTS
from hpc_kit.spec.errors import InputError


class Scale(nn.Module):
    """target = std * output + mean + the sum of `references` over the graph's atoms.

    mean, std [T] float64; the mean is counted per atom where `per_atom`: outputs that are sums over atoms cannot
    represent a constant offset (as in SchNetPack). references [119] float64: a value for each element, for the first
    target. All arithmetic is float64: a total energy has more digits than float32.
    """

    def __init__(self, mean: np.ndarray, std: np.ndarray, per_atom: bool, references: np.ndarray | None = None):
        super().__init__()
        self.per_atom = per_atom
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float64))
        self.register_buffer("references", None if references is None else torch.as_tensor(references))

    def standardize(self, batch: GraphBatch) -> torch.Tensor:
        """Return the batch's targets as the model is to output them, [G, T] float32."""
        return ((batch.targets - self._offset(batch)) / self.std).float()

    def restore(self, output: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """Return outputs [G, T] in the targets' own units, float64."""
        return output.double() * self.std + self._offset(batch)

    def describe(self) -> dict[str, Any]:
        """Return what metrics.json and checkpoints hold."""
        known = {} if self.references is None else dict(zip(chemical_symbols, self.references.tolist(), strict=True))
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "per_atom": self.per_atom,
            "atom_references": {symbol: value for symbol, value in known.items() if value},
        }

    @classmethod
    def of(cls, described: dict[str, Any], targets: int) -> "Scale":
        """Return the scale of so many targets that `describe` described. Raises ValueError, TypeError or KeyError
        where it is none."""
        mean, std = (np.array(described[name], dtype=np.float64) for name in ("mean", "std"))
        table, known = None, described["atom_references"]
        if known:
            table = np.zeros(ELEMENTS)
            table[[atomic_numbers[symbol] for symbol in known]] = list(known.values())
        numbers = np.concatenate([mean, std, table if known else []])
        if not mean.shape == std.shape == (targets,) or not np.isfinite(numbers).all():
            raise ValueError(f"its scale is not that of {targets} targets")
        return cls(mean, std, bool(described["per_atom"]), table)

    def _offset(self, batch: GraphBatch) -> torch.Tensor:
        offset = self.mean.expand(batch.graphs, -1)
        if self.per_atom:
            offset = offset * batch.atom_ptr.diff().unsqueeze(1)
        if self.references is not None:
            each = self.references.index_select(0, batch.z)
            total = each.new_zeros(batch.graphs).index_add_(0, batch.graph_of_atom(), each)
            offset = torch.cat([offset[:, :1] + total.unsqueeze(1), offset[:, 1:]], dim=1)
        return offset


def fit_scale(
    targets: np.ndarray,
    atoms: np.ndarray,
    per_atom: bool,
    elements: np.ndarray | None = None,
    references: str | dict[str, float] | None = None,
) -> Scale:
    """Fit mean, std and atom references to the training part.

    targets [n, T]; atoms [n] atoms of each graph; elements [n, 119]: how many of each element, needed for references
    ("fit": by least squares on the first target). Raises InputError where an element has no reference.
    """
    known = targets.copy()
    table = None
    if references is not None:
        table = np.zeros(ELEMENTS)
        present = np.flatnonzero(elements.any(axis=0))
        if references == "fit":
            table[present] = np.linalg.lstsq(elements[:, present].astype(np.float64), known[:, 0], rcond=None)[0]
        else:
            table[[atomic_numbers[symbol] for symbol in references]] = list(references.values())
            if missing := [chemical_symbols[z] for z in present if chemical_symbols[z] not in references]:
                raise InputError(f"train.atom_references: has no value for {', '.join(missing)}")
        known[:, 0] -= elements @ table
    weight = atoms[:, None] if per_atom else np.ones((len(known), 1))
    mean = (known / weight).mean(axis=0)
    std = (known - mean * weight).std(axis=0)
    return Scale(mean, np.where(std > 0.0, std, 1.0), per_atom, table)
