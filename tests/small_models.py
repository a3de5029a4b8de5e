"""Every model, small, in float64 and as it predicts: for tests of what all models have in common."""

from ase import Atoms
from invariances import (
    NEAREST,
    SMALL_MPNN,
    SMALL_MPNN_TRANSFORMER,
    SMALL_PHYSNET,
    SMALL_PHYSNET_CHARGED,
    SMALL_SCHNET,
    random_model,
)
from some_graphs import some_crystals, some_molecules

from hpc_kit.models.parts import GraphModel
from hpc_kit.spec import models

TARGETS = 2
SMALL_CGCNN = {"atom_features": 6, "convolutions": 2, "hidden": 10, "hidden_layers": 2}
SMALL_TORCHMD = models.TorchMDET(hidden=8, layers=2, heads=4, basis=6)
# name: spec, F, whether the head is linear
MODELS = {
    "schnet": (SMALL_SCHNET, 12, True),
    "schnet, mean": (SMALL_SCHNET.model_copy(update={"readout": "mean"}), 12, True),
    "physnet": (SMALL_PHYSNET, 24, True),
    "physnet, mean": (SMALL_PHYSNET.model_copy(update={"readout": "mean"}), 24, True),
    "physnet, electrostatics": (SMALL_PHYSNET_CHARGED, 24, False),
    "cgcnn": (models.CGCNN(**SMALL_CGCNN), 6, False),
    "cgcnn_matrix": (models.CGCNNMatrix(**SMALL_CGCNN), 6, False),
    "mpnn": (SMALL_MPNN, 8, False),
    "mpnn_transformer": (SMALL_MPNN_TRANSFORMER.model_copy(update={"hidden": 16}), 16, False),
    "torchmd_et": (SMALL_TORCHMD, 4, True),
    "torchmd_et, mean": (SMALL_TORCHMD.model_copy(update={"readout": "mean"}), 4, True),
    "alignn": (models.ALIGNN(hidden=16, embedding=8, alignn_layers=1, gcn_layers=1), 16, True),
}


def made(name: str) -> GraphModel:
    """Return the model, in float64 and as it predicts."""
    return random_model(MODELS[name][0], NEAREST, TARGETS).eval()


def structures(name: str) -> list[Atoms]:
    return some_molecules() if "electrostatics" in name else some_crystals()[1:4]
