"""CGCNN as published (Xie & Grossman 2018, doi 10.1103/PhysRevLett.120.145301), in plain torch: every atom has M
neighbours, concatenated features, one linear layer over all of them. Formula and loader as in the authors' code
(github.com/txie-93/cgcnn, cgcnn/model.py and cgcnn/data.py at f42ab233)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

LIBRARIES = ["torch"]


class Convolution(nn.Module):
    def __init__(self, atom: int, bond: int):
        super().__init__()
        self.full = nn.Linear(2 * atom + bond, 2 * atom)
        self.norm_message, self.norm_sum = nn.BatchNorm1d(2 * atom), nn.BatchNorm1d(atom)

    def forward(self, x: torch.Tensor, bonds: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        atoms, count = neighbours.shape
        own = x.unsqueeze(1).expand(atoms, count, x.shape[1])
        z = self.full(torch.cat([own, x[neighbours, :], bonds], dim=2))
        z = self.norm_message(z.view(atoms * count, -1)).view(atoms, count, -1)
        gate, core = z.chunk(2, dim=2)
        message = (torch.sigmoid(gate) * nn.functional.softplus(core)).sum(dim=1)
        return nn.functional.softplus(x + self.norm_sum(message))


class CrystalGraphNet(nn.Module):
    def __init__(self, elements: int, bond: int, atom: int, convolutions: int, hidden: int, hidden_layers: int):
        super().__init__()
        self.embedding = nn.Linear(elements, atom)
        self.convolutions = nn.ModuleList(Convolution(atom, bond) for _ in range(convolutions))
        self.first = nn.Linear(atom, hidden)
        self.more = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(hidden_layers - 1))
        self.output = nn.Linear(hidden, 1)

    def forward(self, elements, bonds, neighbours, members) -> torch.Tensor:
        x = self.embedding(elements)
        for convolution in self.convolutions:
            x = convolution(x, bonds, neighbours)
        pooled = torch.cat([x[index].mean(dim=0, keepdim=True) for index in members])
        h = nn.functional.softplus(self.first(nn.functional.softplus(pooled)))
        for layer in self.more:
            h = nn.functional.softplus(layer(h))
        return self.output(h)


def make(graphs: dict[str, np.ndarray], settings: dict) -> Callable[[], None]:
    """Return a function that trains one epoch."""
    torch.manual_seed(settings["seed"])
    step, radius = settings["model"]["gaussian_step"], settings["graph"]["cutoff"]
    centres = np.arange(0.0, radius + step, step)
    crystals = padded(graphs, settings["graph"]["max_neighbors"], radius, centres, step)
    loader = DataLoader(crystals, settings["batch_size"], shuffle=True, collate_fn=collate)
    spec = settings["model"]
    widths = (spec["atom_features"], spec["convolutions"], spec["hidden"], spec["hidden_layers"])
    model = CrystalGraphNet(graphs["element_table"].shape[1], len(centres), *widths)
    optimizer = torch.optim.AdamW(model.parameters())

    def epoch() -> None:
        for elements, bonds, neighbours, members, targets in loader:
            loss = nn.functional.mse_loss(model(elements, bonds, neighbours, members), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def padded(graphs, count: int, radius: float, centres: np.ndarray, width: float) -> list[tuple[torch.Tensor, ...]]:
    """Return (elements, bonds, neighbours, target) of each crystal, an atom's neighbours padded to `count` with atom
    0 at radius + 1."""
    crystals = []
    for i, (a, b) in enumerate(zip(graphs["atom_ptr"][:-1], graphs["atom_ptr"][1:], strict=True)):
        edges = slice(graphs["edge_ptr"][i], graphs["edge_ptr"][i + 1])
        src, dst = graphs["src"][edges] - a, graphs["dst"][edges] - a
        vectors = graphs["pos"][a + src] - graphs["pos"][a + dst]
        if "shift" in graphs:
            vectors = vectors + graphs["shift"][edges] @ graphs["cell"][i]
        degree = np.bincount(dst, minlength=b - a)
        place = np.arange(len(dst)) - np.repeat(np.cumsum(degree) - degree, degree)
        neighbours, distance = np.zeros((b - a, count), np.int64), np.full((b - a, count), radius + 1.0)
        neighbours[dst, place], distance[dst, place] = src, np.linalg.norm(vectors, axis=1)
        bonds = np.exp(-((distance[..., None] - centres) ** 2) / width**2)
        elements = graphs["element_table"][graphs["z"][a:b]]
        floats = (torch.Tensor(elements), torch.Tensor(bonds), torch.Tensor(graphs["targets"][i]))
        crystals.append((floats[0], floats[1], torch.from_numpy(neighbours), floats[2]))
    return crystals


def collate(crystals: list[tuple[torch.Tensor, ...]]) -> tuple:
    elements, bonds, neighbours, targets = zip(*crystals, strict=True)
    starts = np.cumsum([0] + [len(e) for e in elements])
    members = [torch.arange(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    shifted = [n + int(a) for n, a in zip(neighbours, starts[:-1], strict=True)]
    return torch.cat(elements), torch.cat(bonds), torch.cat(shifted), members, torch.stack(targets)
