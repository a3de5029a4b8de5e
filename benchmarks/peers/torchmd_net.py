"""torchmd-net's equivariant transformer (package torchmd-net-cpu 2.4.14), trained as its own LNNP does: a
torch_geometric loader, neighbour lists in each forward pass by its compiled extension, forces by its `derivative`.

It has no way to be given edges; those of GraphBatch are used only to see that there are none across a boundary.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torchmdnet.models.model import create_model

LIBRARIES = ["torchmd-net-cpu", "torch", "torch_geometric"]


def make(graphs: dict[str, np.ndarray], settings: dict[str, Any]) -> Callable[[], None]:
    """Return a function that trains one epoch: fp32, MSE of the energy (and of the forces), AdamW."""
    if "shift" in graphs:
        raise ValueError("molecules only: the package asks for boxes of twice the cutoff")
    with_forces = settings["forces"]
    model = model_of(settings, with_forces)
    data = [molecule(graphs, number, with_forces) for number in range(len(graphs["atom_ptr"]) - 1)]
    loader = DataLoader(data, batch_size=settings["batch_size"], shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters())
    mse = torch.nn.functional.mse_loss
    model.train()

    def epoch() -> None:
        for batch in loader:
            energy, forces = model(batch.z, batch.pos, batch.batch)
            loss = mse(energy, batch.y)
            if with_forces:
                loss = loss + mse(forces, batch.neg_dy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def model_of(settings: dict[str, Any], with_forces: bool) -> torch.nn.Module:
    """Return the package's model with fresh weights: fp32, and with forces its `derivative`."""
    torch.manual_seed(settings["seed"])
    given, cutoff = settings["model"], settings["graph"]["cutoff"]
    return create_model(
        {
            "model": "equivariant-transformer",
            "output_model": "Scalar",
            "embedding_dimension": given["hidden"],
            "num_layers": given["layers"],
            "num_heads": given["heads"],
            "num_rbf": given["basis"],
            "rbf_type": {"expnorm": "expnorm", "gaussian": "gauss"}[given["basis_kind"]],
            "trainable_rbf": given["trainable_basis"],
            "distance_influence": given["distance_influence"],
            "neighbor_embedding": given["neighbor_embedding"],
            "vector_cutoff": given["vector_cutoff"],
            "reduce_op": {"sum": "add", "mean": "mean"}[given["readout"]],
            "activation": "silu",
            "attn_activation": "silu",
            "cutoff_lower": 0.0,
            "cutoff_upper": cutoff,
            "max_z": 100,
            "max_num_neighbors": 64,
            "precision": 32,
            "derivative": with_forces,
            "atom_filter": -1,
            "prior_model": None,
        }
    )


def molecule(graphs: dict[str, np.ndarray], number: int, with_forces: bool) -> Data:
    """Return a molecule as its data sets have it: y [1, 1], neg_dy [N, 3]."""
    atoms = slice(*graphs["atom_ptr"][number : number + 2])
    data = Data(
        z=torch.from_numpy(graphs["z"][atoms]),
        pos=torch.from_numpy(graphs["pos"][atoms]),
        y=torch.from_numpy(graphs["targets"][number : number + 1]),
    )
    if with_forces:
        data.neg_dy = torch.from_numpy(graphs["forces"][atoms])
    return data
