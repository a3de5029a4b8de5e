"""Models with weights as they were drawn, as if they had been trained: for tests of forces and dynamics."""

from pathlib import Path

import numpy as np
import torch

import hpc_kit
from hpc_kit.models import build_model
from hpc_kit.predict.predictor import Predictor
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import PhysNet, SchNet, TorchMDET
from hpc_kit.train.best import Best
from hpc_kit.train.scale import Scale

MODELS = {
    "schnet": SchNet(hidden=8, filters=8, interactions=2, gaussians=10),
    "physnet": PhysNet(hidden=8, basis=8, interactions=1),
    "torchmd_et": TorchMDET(hidden=8, layers=1, heads=2, basis=8, vector_cutoff=True),
}
GRAPH = Graph(cutoff=4.0)


def drawn(spec, graph: Graph = GRAPH, seed: int = 0, unit: str = "eV", **precision: str) -> Predictor:
    """Return a model with weights as they were drawn, as if it had been trained."""
    torch.manual_seed(seed)
    model = build_model(spec, graph).requires_grad_(False).eval()
    for weights in model.parameters():  # some models start with an output of nothing
        weights += 0.1 * torch.randn_like(weights)
    scale = Scale(np.array([0.3]), np.array([2.0]), per_atom=spec.sums_over_atoms)
    best = Best(
        path=Path("drawn.pt"),
        model=model,
        spec=spec,
        scale=scale,
        graph=graph,
        units={"energy": unit},
        forces=True,
        elements=[1, 6, 7, 8, 11, 12, 17, 22, 29, 31, 33, 38],
        periodic=True,
        dataset_sha256="",
        version=hpc_kit.__version__,
        epoch=0,
        score=0.0,
    )
    return Predictor([best], **precision)
