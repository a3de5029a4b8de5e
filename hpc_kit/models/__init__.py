"""The models, one a file, and the registry that builds one from a job's `model:`."""

from importlib import import_module

from torch import Tensor

from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
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


def build_model(spec: Model, graph: Graph, targets: int = 1) -> GraphModel:
    """Return the model `spec` describes with fresh weights, drawn from torch's global generator.

    It is called as Class(spec, graph, targets): what the job says of the model and of the graphs it will see.
    """
    file, name = _MODELS.get(spec.name, ("foreign", "ForeignModel"))
    return getattr(import_module(f"hpc_kit.models.{file}"), name)(spec, graph, targets)


def from_upstream(spec: Model, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the package that a model comes from under the names of ours, where we know them."""
    if spec.name not in _MODELS:
        return state
    rename = getattr(import_module(f"hpc_kit.models.{_MODELS[spec.name][0]}"), "from_upstream", None)
    return rename(state) if rename else state
