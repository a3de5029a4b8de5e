"""CGCNN by the formula of its authors' code (github.com/txie-93/cgcnn at f42ab233: cgcnn/model.py, cgcnn/data.py),
written out in plain torch: the authors publish no package. Usage: see make.py.

`output` and `gradient/` are the padded original's in training, `eval/output` with the running statistics that this
training step leaves in `after/`. `list/...` are the same with the sums and batch normalisations taken over the real
neighbours alone: the form over an adjacency list.
"""

import sys

import numpy as np
import torch
from torch.nn import functional as nn

REQUIREMENTS = ["torch==2.13.0 numpy==2.4.6"]
STRUCTURES = "crystals"
# Some atoms have 12 neighbours, some fewer.
GRAPH = {"cutoff": 3.2, "max_neighbors": 12}
FEATURES = 10
CONVOLUTIONS = 3
HIDDEN = 14
LAYERS = 2
STEP = 0.2
ELEMENTS = 92


def weights(bins: int) -> dict[str, torch.Tensor]:
    """Draw a state dict with the authors' keys."""
    draw = np.random.default_rng(0)
    shapes = {"embedding": (FEATURES, ELEMENTS), "conv_to_fc": (HIDDEN, FEATURES), "fc_out": (1, HIDDEN)}
    shapes |= {f"fcs.{i}": (HIDDEN, HIDDEN) for i in range(LAYERS - 1)}
    shapes |= {f"convs.{i}.fc_full": (2 * FEATURES, 2 * FEATURES + bins) for i in range(CONVOLUTIONS)}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = draw.uniform(-1, 1, shape) / np.sqrt(shape[1])
        state[f"{name}.bias"] = draw.uniform(-1, 1, shape[0]) / np.sqrt(shape[1])
    state["fc_out.bias"] += 1.0  # outputs near zero would be compared by what cancels in them
    for i in range(CONVOLUTIONS):
        for name, width in (("bn1", 2 * FEATURES), ("bn2", FEATURES)):
            state[f"convs.{i}.{name}.weight"] = draw.uniform(0.5, 1.5, width)
            state[f"convs.{i}.{name}.bias"] = draw.normal(0, 0.3, width)
            state[f"convs.{i}.{name}.running_mean"] = draw.normal(0, 0.3, width)
            state[f"convs.{i}.{name}.running_var"] = draw.uniform(0.5, 1.5, width)
    state = {name: torch.tensor(value, dtype=torch.float32) for name, value in state.items()}
    return state | {
        f"convs.{i}.{bn}.num_batches_tracked": torch.tensor(0) for i in range(CONVOLUTIONS) for bn in ("bn1", "bn2")
    }


def crystals(graph: dict[str, np.ndarray]):
    """Return elements [N], neighbours [N, M], bonds [N, M, K] and real [N, M], as CIFData and collate_pool do."""
    src, dst = graph["src"], graph["dst"]
    of_edge = np.repeat(np.arange(len(graph["edge_ptr"]) - 1), np.diff(graph["edge_ptr"]))
    of_atom = np.repeat(np.arange(len(graph["atom_ptr"]) - 1), np.diff(graph["atom_ptr"]))
    pos, cell = graph["pos"].astype(float), graph["cell"].astype(float)
    vectors = pos[src] + np.einsum("ek,ekx->ex", graph["shift"].astype(float), cell[of_edge]) - pos[dst]
    length = np.linalg.norm(vectors, axis=1)
    count, radius = GRAPH["max_neighbors"], GRAPH["cutoff"]
    neighbours, distance, real = [], [], []
    for atom in range(len(pos)):
        mine = np.flatnonzero(dst == atom)
        mine = mine[np.argsort(length[mine])]
        lacking = count - len(mine)
        neighbours.append(list(src[mine]) + [graph["atom_ptr"][of_atom[atom]]] * lacking)
        distance.append(list(length[mine]) + [radius + 1.0] * lacking)
        real.append([True] * len(mine) + [False] * lacking)
    centres = np.arange(0, radius + STEP, STEP)
    bonds = np.exp(-((np.array(distance)[..., None] - centres) ** 2) / STEP**2)
    return torch.tensor(np.array(neighbours)), torch.tensor(bonds, dtype=torch.float32), torch.tensor(real)


def normalise(x: torch.Tensor, state: dict, name: str, training: bool) -> torch.Tensor:
    running = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return nn.batch_norm(x, *running, state[f"{name}.weight"], state[f"{name}.bias"], training, 0.1, 1e-5)


def model(state: dict, table: torch.Tensor, graph: dict, padded: bool, training: bool) -> torch.Tensor:
    neighbours, bonds, real = crystals(graph)
    atoms, count = neighbours.shape
    x = table[torch.tensor(graph["z"])] @ state["embedding.weight"].T + state["embedding.bias"]
    for i in range(CONVOLUTIONS):
        name = f"convs.{i}"
        own = x.unsqueeze(1).expand(atoms, count, FEATURES)
        z = torch.cat([own, x[neighbours], bonds], dim=2) @ state[f"{name}.fc_full.weight"].T
        z = z + state[f"{name}.fc_full.bias"]
        taken = torch.ones_like(real) if padded else real
        normal = torch.zeros_like(z)
        normal[taken] = normalise(z[taken], state, f"{name}.bn1", training)
        gate, core = normal.chunk(2, dim=2)
        message = torch.sigmoid(gate) * nn.softplus(core) * taken.unsqueeze(2)
        x = nn.softplus(x + normalise(message.sum(dim=1), state, f"{name}.bn2", training))
    pooled = [x[a:b].mean(dim=0) for a, b in zip(graph["atom_ptr"][:-1], graph["atom_ptr"][1:], strict=True)]
    h = nn.softplus(torch.stack(pooled)) @ state["conv_to_fc.weight"].T + state["conv_to_fc.bias"]
    h = nn.softplus(h)
    for i in range(LAYERS - 1):
        h = nn.softplus(h @ state[f"fcs.{i}.weight"].T + state[f"fcs.{i}.bias"])
    return h @ state["fc_out.weight"].T + state["fc_out.bias"]


def main() -> None:
    with np.load(sys.argv[1]) as file:
        graph = dict(file)
    bins = len(np.arange(0, GRAPH["cutoff"] + STEP, STEP))
    start = weights(bins)
    # Atoms carry numbers of their own, not the published table: what is compared here is the network.
    table = torch.tensor(np.random.default_rng(1).integers(0, 2, (119, ELEMENTS)), dtype=torch.float32)
    found = {f"weights/{name}": value.numpy() for name, value in start.items()} | {"table": table.numpy()}
    for prefix, padded in (("", True), ("list/", False)):
        state = {name: value.clone() for name, value in start.items()}
        learned = {n: v.requires_grad_() for n, v in state.items() if n.endswith((".weight", ".bias"))}
        output = model(state, table, graph, padded, training=True)
        output.sum().backward()
        found[f"{prefix}output"] = output.detach().numpy()
        found |= {f"{prefix}gradient/{name}": value.grad.numpy() for name, value in learned.items()}
        found |= {f"{prefix}after/{name}": value.numpy() for name, value in state.items() if "running" in name}
        found[f"{prefix}eval/output"] = model(state, table, graph, padded, training=False).detach().numpy()
    found["versions"] = np.array([f"torch {torch.__version__}", f"numpy {np.__version__}", "cgcnn f42ab233"])
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
