"""What the torch_geometric peers share: graphs with precomputed edges in its loader, and an epoch of training."""

from collections.abc import Callable

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

LIBRARIES = ["torch", "torch_geometric"]


def graphs_of(graphs: dict[str, np.ndarray]) -> list[Data]:
    """Return one Data a graph; `offset` [E, 3] Angstrom is what crosses the cell's boundary adds to an edge."""
    data = []
    for i in range(len(graphs["atom_ptr"]) - 1):
        atoms = slice(*graphs["atom_ptr"][i : i + 2])
        edges = slice(*graphs["edge_ptr"][i : i + 2])
        pairs = np.stack([graphs["src"][edges], graphs["dst"][edges]]).astype(np.int64) - atoms.start
        offset = np.zeros((pairs.shape[1], 3), np.float32)
        if graphs.get("shift") is not None:
            offset = graphs["shift"][edges].astype(np.float32) @ graphs["cell"][i]
        data.append(
            Data(
                z=torch.from_numpy(graphs["z"][atoms].astype(np.int64)),
                pos=torch.from_numpy(graphs["pos"][atoms]),
                edge_index=torch.from_numpy(pairs),
                offset=torch.from_numpy(offset),
                y=torch.from_numpy(graphs["targets"][i : i + 1].astype(np.float32)),
            )
        )
    return data


def distances(data: Data) -> torch.Tensor:
    src, dst = data.edge_index
    return (data.pos[src] + data.offset - data.pos[dst]).norm(dim=-1)


def trainer(model: torch.nn.Module, graphs: dict[str, np.ndarray], settings: dict) -> Callable[[], None]:
    """Return a function that trains `model`, called with a batch, for one epoch."""
    loader = DataLoader(graphs_of(graphs), settings["batch_size"], shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters())

    def epoch() -> None:
        for batch in loader:
            loss = torch.nn.functional.mse_loss(model(batch), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch
