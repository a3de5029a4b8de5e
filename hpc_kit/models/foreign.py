"""A module of the user's own behind the same door as the models here."""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Graph
from hpc_kit.spec.models import Foreign


class ForeignModel(nn.Module):
    """The module that `spec` names, given a torch_geometric Data batch, or DGL's (graph, line graph) or (graph, line
    graph, cells [G, 3, 3]).

    Raises InputError where it cannot be imported or built, or returns another shape than [G, targets].
    """

    def __init__(self, spec: Foreign, graph: Graph, targets: int = 1):
        super().__init__()
        self._spec, self._targets = spec, targets
        file, name = spec.module.split(":")
        try:
            self.inner = getattr(import_module(file), name)(**spec.args)
        except Exception as error:  # the user's code may raise anything
            raise self._error(f"cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(self.inner, nn.Module):
            raise self._error(f"made a {type(self.inner).__name__}, not a torch.nn.Module")

    def forward(self, batch: GraphBatch) -> torch.Tensor:
        """Return [G, targets]."""
        if not batch.graphs:  # a rank without work: its parameters take part, with nothing
            return sum(p.sum() for p in self.inner.parameters()) * batch.pos.new_zeros(0, self._targets)
        out = self.inner(self._given(batch))
        wanted = (batch.graphs, self._targets)
        fitting = [wanted, *([wanted[:1]] if wanted[1] == 1 else []), *([()] if wanted == (1, 1) else [])]
        if not torch.is_tensor(out) or tuple(out.shape) not in fitting:
            got = f"shape {list(out.shape)}" if torch.is_tensor(out) else type(out).__name__
            raise self._error(f"must return a tensor of shape {list(wanted)} (graphs, targets); it returned {got}")
        return out.view(wanted)

    def _given(self, batch: GraphBatch) -> Any:
        if self._spec.takes == "pyg":
            return batch.to_pyg()
        graphs = batch.to_dgl()
        return graphs if self._spec.takes == "dgl" else (*graphs, batch.cell)

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Raise InputError: nothing is known of the module's layers."""
        raise self._error("has no embedding of atoms that is known here")

    def _error(self, text: str) -> InputError:
        return InputError(f"model.import {self._spec.module}: {text}")
