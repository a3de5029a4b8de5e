"""ALIGNN's numbers, by the package alignn on DGL: called as alignn.py IN.npz OUT.npz (make.py).

Beside what make.py's contract names: `features` (atom features as jarvis-tools gives them), `output_eval`,
`gradient_eval/...`, `forces`, `forces_eval` (minus the gradient of the summed output), `output64...`, `forces64...`
(in float64), `after/...` (running statistics after one training forward) and `output/A+G`, in training, of models of
A ALIGNN and G GCN layers with these weights.
"""

import importlib.metadata
import os
import sys

os.environ.setdefault("DGLBACKEND", "pytorch")
sys.path.pop(0)  # this folder, where `alignn` would be this file

import dgl
import numpy as np
import torch
from alignn.graphs import compute_bond_cosines
from alignn.models.alignn import ALIGNN, ALIGNNConfig
from jarvis.core.specie import atomic_numbers_to_symbols, get_node_attributes

REQUIREMENTS = [
    "torch==2.2.1 numpy==1.26.4 torchdata==0.7.1 pandas pydantic pydantic-settings pyyaml",
    "dgl==2.1.0 ase matplotlib scikit-learn tqdm xmltodict toolz requests",
    "--no-deps alignn==2025.4.1 jarvis-tools==2024.10.30",
]
STRUCTURES = "crystals"
GRAPH = {"cutoff": 8.0, "max_neighbors": 12, "rule": "alignn"}
WIDTHS = {
    "hidden_features": 16,
    "embedding_features": 8,
    "edge_input_features": 20,
    "triplet_input_features": 10,
}
LAYERS = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (2, 2)]


def make(layers: tuple[int, int]) -> ALIGNN:
    config = ALIGNNConfig(name="alignn", alignn_layers=layers[0], gcn_layers=layers[1], **WIDTHS)
    return ALIGNN(config)


def fresh_weights() -> dict[str, torch.Tensor]:
    """Return the package's own initial weights; normalisations get statistics and weights that are not trivial."""
    torch.manual_seed(0)
    state = make((2, 2)).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0.0, 0.3)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif f"{name.removesuffix('weight').removesuffix('bias')}running_mean" in state:
            value.add_(torch.randn_like(value), alpha=0.2)
    return state


def run(model: ALIGNN, given: dict[str, np.ndarray], features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output [G] and the forces [N, 3]; the parameters' gradients are those of the summed output."""
    graph = dgl.graph((given["src"], given["dst"]), num_nodes=len(given["z"]))
    dtype = model.fc.weight.dtype
    graph.ndata["atom_features"] = torch.from_numpy(features).to(dtype)
    pos = torch.from_numpy(given["pos"]).to(dtype).requires_grad_()
    src, dst = graph.edges()
    of_edge = np.repeat(np.arange(len(given["cell"])), np.diff(given["edge_ptr"]))
    shift = np.einsum("ek,ekx->ex", given["shift"].astype(np.float64), given["cell"][of_edge])
    graph.edata["r"] = pos[dst] - pos[src] - torch.from_numpy(shift).to(dtype)
    graph.set_batch_num_nodes(torch.from_numpy(np.diff(given["atom_ptr"])))
    graph.set_batch_num_edges(torch.from_numpy(np.diff(given["edge_ptr"])))
    model.zero_grad()
    if len(model.alignn_layers):
        lines = graph.line_graph(shared=True)
        lines.apply_edges(compute_bond_cosines)
        output = model((graph, lines, None))
    else:
        output = model(graph)
    total = output.sum()
    total.backward()
    return output.detach(), torch.zeros_like(pos) if pos.grad is None else -pos.grad


def main() -> None:
    with np.load(sys.argv[1]) as file:
        given = dict(file)
    symbols = atomic_numbers_to_symbols(given["z"].tolist())
    features = np.array([get_node_attributes(s, atom_features="cgcnn") for s in symbols], dtype=np.float32)
    state = fresh_weights()
    found = {f"weights/{name}": value.clone() for name, value in state.items()}
    for layers in LAYERS:
        model = make(layers)
        model.load_state_dict({name: value for name, value in state.items() if name in model.state_dict()})
        found[f"output/{layers[0]}+{layers[1]}"], _ = run(model, given, features)
    for mode, suffix in ((True, ""), (False, "_eval")):
        model.load_state_dict(state)
        found[f"output{suffix}"], found[f"forces{suffix}"] = run(model.train(mode), given, features)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"gradient{suffix}/{name}"] = parameter.grad.clone()
        if mode:
            found |= {f"after/{name}": value.clone() for name, value in model.named_buffers() if "running" in name}
        model.load_state_dict(state)
        found[f"output64{suffix}"], found[f"forces64{suffix}"] = run(model.double(), given, features)
        model.float()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("alignn", "dgl", "torch", "jarvis-tools")]
    np.savez(
        sys.argv[2],
        features=features,
        versions=np.array(versions),
        **{name: value.numpy() for name, value in found.items()},
    )


if __name__ == "__main__":
    main()
