"""torch.compile, and the parts of models that it is to leave as they are.

torch.compiler.disable would do the latter alone, but it loads torch's compiler when a module is imported: two thirds
of the time that torch itself takes, for something that most runs never use.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_LEFT_ALONE: list[dict[str, Callable]] = []


def left_alone(function: Callable) -> Callable:
    """Return `function` such that a model compiled by `compiled` calls it uncompiled."""
    table = {"call": function}
    _LEFT_ALONE.append(table)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return table["call"](*args, **kwargs)

    return call


def compiled(model: nn.Module, **options: Any) -> nn.Module:
    """Return torch.compile(model, dynamic=True, **options)."""
    while _LEFT_ALONE:
        table = _LEFT_ALONE.pop()
        table["call"] = torch.compiler.disable(table["call"])
    return torch.compile(model, dynamic=True, **options)
