"""Weights from a file: a best.pt of this package, or a checkpoint of the package a model comes from."""

import copy
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_kit.models import from_upstream
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.models import Model
from hpc_kit.spec.train import Weights
from hpc_kit.train.checkpoint import parse_foreign

SHOWN = 4
_SHAPES = re.compile(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\).*")


def load_weights(model: nn.Module, spec: Model, weights: Weights) -> None:
    """Load the weights that training starts from.

    Other packages nest the state dict under `state_dict` or `model`; its keys are renamed where they are another
    package's. Raises InputError where the file changed, or does not fit, naming the keys.
    """
    path = Path(weights.path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"train.start_from: {path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise InputError(
            f"train.start_from: {path}: is not the file this task was planned with (changed or damaged since); submit"
            " the job anew"
        )
    try:
        state = _state_dict(parse_foreign(path, content))
    except WorkError as error:
        raise InputError(f"train.start_from: {error}") from None
    if state is None:
        raise InputError(f"train.start_from: {path}: holds no state dict of tensors")
    if set(state) != set(model.state_dict()):
        state = from_upstream(spec, state)
    load_fitting(model, state, f"train.start_from: {path}")


def load_fitting(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load `state` into `model`. Raises InputError naming what does not fit; the model then is as before."""
    trial = copy.deepcopy(model)
    wrong = {}
    try:
        keys = trial.load_state_dict(state, strict=False)
        wrong = {"is missing": keys.missing_keys, "belongs to no part of this model": keys.unexpected_keys}
    except RuntimeError as error:  # torch's account of shapes; `strict` concerns names alone
        wrong = {"has another shape": [_SHAPES.sub(r"\1 \2, here \3", line) for line in _mismatches(error)]}
    if any(wrong.values()):
        lines = [f"{what}: {_first(names)}" for what, names in wrong.items() if names]
        raise InputError(f"{where}: is of another architecture than the job's model; {'; '.join(lines)}")
    model.load_state_dict(state)


def _mismatches(error: RuntimeError) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if "size mismatch" in line] or [str(error)]


def _state_dict(content: Any) -> dict[str, torch.Tensor] | None:
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if isinstance(content, Mapping) and content and all(torch.is_tensor(value) for value in content.values()):
        return dict(content)
    return None


def _first(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
