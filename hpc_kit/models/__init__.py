"""The models, one a file, and the registry that builds one from a job's `model:`."""

from importlib import import_module

from torch import nn

from hpc_kit.spec.job import Graph
from hpc_kit.spec.models import Model

# name: module and class. Only the one that is asked for is loaded.
_MODELS = {
    "alignn": ("alignn", "ALIGNN"),
    "cgcnn": ("cgcnn", "CGCNN"),
    "cgcnn_matrix": ("cgcnn_matrix", "CGCNNMatrix"),
    "mpnn": ("mpnn", "MPNN"),
    "mpnn_transformer": ("mpnn_transformer", "MPNNTransformer"),
    "physnet": ("physnet", "PhysNet"),
    "schnet": ("schnet", "SchNet"),
    "torchmd_et": ("torchmd_et", "TorchMDET"),
}


def build_model(spec: Model, graph: Graph, targets: int = 1) -> nn.Module:
    """Return the model `spec` describes with fresh weights, drawn from torch's global generator.

    It is called as Class(spec, graph, targets): what the job says of the model and of the graphs it will see.
    """
    file, name = _MODELS[spec.name]
    return getattr(import_module(f"hpc_kit.models.{file}"), name)(spec, graph, targets)
