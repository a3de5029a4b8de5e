"""Upstream ALIGNN (package alignn 2025.4.1) on DGL, as its own trainer runs it. For an environment with both.

Graphs and line graphs are made beforehand, as its StructureDataset does; its GraphDataLoader batches them. Unlike
its trainer it keeps an epoch's last, smaller batch, so that both sides see the same crystals.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")

import dgl
import numpy as np
import torch
from alignn.graphs import compute_bond_cosines
from alignn.models.alignn import ALIGNN, ALIGNNConfig
from dgl.dataloading import GraphDataLoader
from jarvis.core.specie import atomic_numbers_to_symbols, get_node_attributes

LIBRARIES = ["alignn", "dgl", "torch", "jarvis-tools"]


def make(graphs: dict[str, np.ndarray], settings: dict[str, Any]) -> Callable[[], None]:
    """Return a function that trains one epoch: fp32, MSE, AdamW."""
    torch.manual_seed(settings["seed"])
    given = settings["model"]
    model = ALIGNN(
        ALIGNNConfig(
            name="alignn",
            alignn_layers=given["alignn_layers"],
            gcn_layers=given["gcn_layers"],
            hidden_features=given["hidden"],
            embedding_features=given["embedding"],
            edge_input_features=given["edge_bins"],
            triplet_input_features=given["triplet_bins"],
        )
    )
    data = [crystal(graphs, number) for number in range(len(graphs["atom_ptr"]) - 1)]
    loader = GraphDataLoader(data, batch_size=settings["batch_size"], shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()

    def epoch() -> None:
        for graph, lines, target in loader:
            output = model((graph, lines, None) if len(model.alignn_layers) else graph)
            loss = torch.nn.functional.mse_loss(output.view(-1), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def crystal(graphs: dict[str, np.ndarray], number: int) -> tuple[dgl.DGLGraph, dgl.DGLGraph, torch.Tensor]:
    """Return a crystal's graph, its line graph and its target."""
    atoms = slice(*graphs["atom_ptr"][number : number + 2])
    edges = slice(*graphs["edge_ptr"][number : number + 2])
    src, dst, pos = graphs["src"][edges] - atoms.start, graphs["dst"][edges] - atoms.start, graphs["pos"][atoms]
    images = graphs["shift"][edges].astype(np.float32) @ graphs["cell"][number]
    graph = dgl.graph((torch.from_numpy(src), torch.from_numpy(dst)), num_nodes=len(pos))
    graph.edata["r"] = torch.from_numpy(pos[dst] - images - pos[src])
    symbols = atomic_numbers_to_symbols(graphs["z"][atoms].tolist())
    features = np.array([get_node_attributes(symbol, atom_features="cgcnn") for symbol in symbols], dtype=np.float32)
    graph.ndata["atom_features"] = torch.from_numpy(features)
    lines = graph.line_graph(shared=True)
    lines.apply_edges(compute_bond_cosines)
    return graph, lines, torch.tensor(float(graphs["targets"][number, 0]))


def collate(samples: list) -> tuple[dgl.DGLGraph, dgl.DGLGraph, torch.Tensor]:
    """Batch as upstream's collate_line_graph (alignn/graphs.py)."""
    graphs, lines, targets = zip(*samples, strict=True)
    return dgl.batch(graphs), dgl.batch(lines), torch.stack(targets)
