"""The models, one a file, and the registry that builds one from a job's `model:`."""

from torch import nn

from hpc_kit.models.schnet import SchNet
from hpc_kit.spec.job import Model

_MODELS = {"schnet": SchNet}


def build_model(spec: Model, cutoff: float) -> nn.Module:
    """Return the model `spec` describes with fresh weights; draw them from torch's global generator."""
    return _MODELS[spec.name](cutoff=cutoff, **spec.model_dump(exclude={"name"}))
