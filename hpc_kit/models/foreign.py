"""A module of the user's own behind the same door as the models here."""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.parts import Embed, GraphModel, Head
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import Foreign


class ForeignModel(GraphModel):
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
        return self._outputs(self.inner(self._given(batch)), batch, "must return")

    def start(self, batch: GraphBatch) -> torch.Tensor:
        raise self._error("saliency needs what a model begins with, which a module of your own does not tell")

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, F], what the module's own `embed` returns. Raises InputError where it has none."""
        self._need_parts()
        features = self.inner.embed(self._given(batch))
        if not torch.is_tensor(features) or features.dim() != 2 or len(features) != len(batch.z):
            raise self._error(
                f"embed must return a tensor of shape [{len(batch.z)}, any number] (atoms, features); it returned"
                f" {_what(features)}"
            )
        return features

    def head(self, features: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """features [N, F] -> [G, targets] by the module's own `head`. Raises InputError where it has none."""
        self._need_parts()
        return self._outputs(self.inner.head(features, self._given(batch)), batch, "head must return")

    def parts(self, batch: GraphBatch) -> tuple[Embed, Head]:
        self._need_parts()
        modes = [(module, module.training) for module in self.modules()]
        self.eval()  # no dropout, and statistics of batches stay as they are
        try:
            whole, together = self(batch), self._together(batch)
        finally:
            for module, training in modes:
                module.training = training
        difference, size = ((whole - together).detach().abs().amax(0), whole.detach().abs().amax(0))
        if not bool((difference <= 1e-3 * size).all()):  # rounding is far less, also where a GPU adds in any order
            raise self._error(
                f"head(embed(batch), batch) differs by {float(difference.max()):.2g} from what forward(batch)"
                " returns. Let forward return head(embed(batch), batch)"
            )
        return self.embed, self.head

    def _together(self, batch: GraphBatch) -> torch.Tensor:
        try:
            return self.head(self.embed(batch), batch)
        except InputError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise self._error(f"head(embed(batch), batch): {type(error).__name__}: {error}") from error

    def _need_parts(self) -> None:
        missing = [name for name in ("embed", "head") if not callable(getattr(self.inner, name, None))]
        if missing:
            raise self._error(
                f"has no {' and no '.join(missing)}, which this kind of work needs. Add embed(batch) -> [atoms,"
                " features] and head(features, batch) -> [graphs, targets] to the class, and let forward(batch)"
                ' return head(embed(batch), batch): docs/training.md, "A module of your own"'
            )

    def _outputs(self, out: Any, batch: GraphBatch, must: str) -> torch.Tensor:
        """Return `out` as [G, targets]; the column of a single target may be left out."""
        wanted = (batch.graphs, self._targets)
        fitting = [wanted, *([wanted[:1]] if wanted[1] == 1 else []), *([()] if wanted == (1, 1) else [])]
        if not torch.is_tensor(out) or tuple(out.shape) not in fitting:
            raise self._error(f"{must} a tensor of shape {list(wanted)} (graphs, targets); it returned {_what(out)}")
        return out.view(wanted)

    def _given(self, batch: GraphBatch) -> Any:
        if self._spec.takes == "pyg":
            return batch.to_pyg()
        graphs = batch.to_dgl()
        return graphs if self._spec.takes == "dgl" else (*graphs, batch.cell)

    def _error(self, text: str) -> InputError:
        return InputError(f"model.import {self._spec.module}: {text}")


def _what(value: Any) -> str:
    return f"shape {list(value.shape)}" if torch.is_tensor(value) else type(value).__name__
