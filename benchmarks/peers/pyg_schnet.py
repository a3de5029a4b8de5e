"""torch_geometric's SchNet. It gets the precomputed edges through `interaction_graph`, or with `own_edges` in the
settings makes them in every step with its radius graph, as it does by default (that needs pyg-lib)."""

from collections.abc import Callable

import numpy as np
import pyg_data
import torch
from torch_geometric.data import Data
from torch_geometric.nn.models import SchNet

LIBRARIES = pyg_data.LIBRARIES


class Precomputed(torch.nn.Module):
    def __init__(self, spec: dict, cutoff: float, own_edges: bool):
        super().__init__()
        graph = {} if own_edges else {"interaction_graph": self._edges}
        sizes = (spec["hidden"], spec["filters"], spec["interactions"], spec["gaussians"])
        self.model = SchNet(*sizes, cutoff, readout={"sum": "add", "mean": "mean"}[spec["readout"]], **graph)

    def forward(self, data: Data) -> torch.Tensor:
        self.data = data
        return self.model(data.z, data.pos, data.batch)

    def _edges(self, pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.data.edge_index, pyg_data.distances(self.data)


class OwnModel(Precomputed):
    """The same as a job's `model: {import: "pyg_schnet:OwnModel", args: ...}`, for molecules."""

    def __init__(self, cutoff: float, **spec):
        super().__init__(spec | {"readout": "sum"}, cutoff, own_edges=False)

    def forward(self, data: Data) -> torch.Tensor:
        data.offset = data.pos.new_zeros(data.edge_index.shape[1], 3)
        return super().forward(data)


def make(graphs: dict[str, np.ndarray], settings: dict) -> Callable[[], None]:
    """Return a function that trains one epoch."""
    torch.manual_seed(settings["seed"])
    model = Precomputed(settings["model"], settings["graph"]["cutoff"], settings.get("own_edges", False))
    return pyg_data.trainer(model, graphs, settings)
