"""Energies, forces and gradients of the torchmd-net package's equivariant transformer, on its own neighbour lists.

`CASES` are what differs from `SETTINGS`. Stored for each: `weights/`, `output`, `forces`, `gradient/` of the summed
output, `force_gradient/` of the summed squares of the forces.
"""

import sys
from importlib.metadata import version

import numpy as np
import torch

REQUIREMENTS = ["torchmd-net-cpu==2.4.14"]
STRUCTURES = "molecules"
GRAPH = {"cutoff": 5.0}
CASES = [
    {},
    {"distance_influence": "keys", "neighbor_embedding": False, "rbf_type": "gauss", "trainable_rbf": True},
    {"distance_influence": "values", "trainable_rbf": True, "vector_cutoff": True},
    {"distance_influence": "none", "rbf_type": "gauss", "num_layers": 3, "num_heads": 2},
]
SETTINGS = {
    "model": "equivariant-transformer",
    "output_model": "Scalar",
    "embedding_dimension": 8,
    "num_layers": 2,
    "num_heads": 4,
    "num_rbf": 6,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "attn_activation": "silu",
    "distance_influence": "both",
    "neighbor_embedding": True,
    "vector_cutoff": False,
    "reduce_op": "add",
    "cutoff_lower": 0.0,
    "cutoff_upper": 5.0,
    "max_z": 100,
    "max_num_neighbors": 32,
    "precision": 32,
    "derivative": True,
    "atom_filter": -1,
    "prior_model": None,
}


def main(given: str, found: str) -> None:
    from torchmdnet.models.model import create_model

    with np.load(given) as file:
        graph = {name: torch.from_numpy(file[name]) for name in file.files}
    graph_of_atom = torch.repeat_interleave(graph["atom_ptr"].diff())
    out = {"versions": np.array([f"{name} {version(name)}" for name in ("torchmd-net-cpu", "torch")])}
    for number, case in enumerate(CASES):
        torch.manual_seed(number)
        model = create_model(SETTINGS | case, mean=torch.tensor(0.7), std=torch.tensor(1.3))
        absent = torch.ones(100, dtype=torch.bool)
        absent[graph["z"]] = False
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "distance_expansion" not in name:
                    weight.copy_(torch.randn(weight.shape) * (0.5 if weight.dim() == 1 else weight.shape[1] ** -0.5))
                if name.endswith("embedding.weight"):
                    weight.mul_(4.0)[absent] = 0.0
        edges = model.representation_model.distance(graph["pos"], graph_of_atom)[0]
        assert edges.shape[1] == len(graph["src"]) + len(graph["z"]), "another neighbour list"

        energy, forces = model(graph["z"], graph["pos"].clone(), graph_of_atom)
        values = {"output": energy, "forces": forces}
        values |= {f"weights/{name}": value for name, value in model.state_dict().items()}
        for loss, kind in ((energy.sum(), "gradient"), (forces.square().sum(), "force_gradient")):
            model.zero_grad()
            loss.backward(retain_graph=True)
            values |= {f"{kind}/{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        out |= {f"{number}/{name}": value.detach().numpy() for name, value in values.items()}
    np.savez(found, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
