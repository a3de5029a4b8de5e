"""Optimisers and the learning rate at each of their steps."""

import math

import torch

from hpc_kit.spec.job import Train


def build_optimizer(parameters, train: Train) -> torch.optim.Optimizer:
    """Return the optimiser that `train` names."""
    common = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=train.momentum, **common)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[train.optimizer](parameters, **common)


def learning_rate(train: Train, step: int, steps: int) -> float:
    """Return the rate of optimiser step `step` of `steps` in all: a pure function, so resuming needs no state.

    constant: learning_rate. cosine: falls to 0 along half a cosine. Both rise linearly over the first `warmup`
    steps. one_cycle (Smith & Topin 2019, arXiv:1708.07120, with torch's defaults): rises along a cosine from
    1/25 of learning_rate over the first 30 % of the steps, then falls to 1/250000 of it.
    """
    peak = train.learning_rate
    if train.schedule == "one_cycle":
        turn = 0.3 * steps - 1.0
        if step <= turn:
            return _cosine(peak / 25, peak, step / turn)
        return _cosine(peak, peak / 25 / 1e4, (step - turn) / max(steps - 1 - turn, 1.0))
    if step < train.warmup:
        return peak * (step + 1) / train.warmup
    if train.schedule == "cosine":
        return _cosine(peak, 0.0, (step - train.warmup) / max(steps - train.warmup, 1))
    return peak


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * part))
