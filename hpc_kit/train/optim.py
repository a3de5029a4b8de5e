"""Optimisers, the learning rate at each of their steps, and what waits for the validation error to get better."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hpc_kit.spec.train import Train


def build_optimizer(parameters: Iterable[torch.nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Return the optimiser that `train` names."""
    common = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=train.momentum, **common)
    if train.optimizer == "lamb":
        from pytorch_optimizer import Lamb  # You et al. 2020, arXiv:1904.00962

        return Lamb(parameters, **common)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[train.optimizer](parameters, **common)


def learning_rate(train: Train, step: int, steps: int) -> float:
    """Return the rate of optimiser step `step` of `steps` in all: a pure function, so resuming needs no state.

    constant, plateau: learning_rate. cosine: falls to 0 along half a cosine. All rise linearly over the first
    `warmup` steps. one_cycle (Smith & Topin 2019, arXiv:1708.07120, with torch's defaults): rises along a cosine from
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


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Return the 2-norm of all gradients together, on their device."""
    norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
    return torch.linalg.vector_norm(torch.stack(norms))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * part))


@dataclass
class Patience:
    """How many epochs have passed without a score better than the best before by more than a difference."""

    best: float = math.inf
    waited: int = 0

    def see(self, score: float, min_delta: float = 0.0) -> int:
        """Take the score of an epoch; return how many have passed without a better one."""
        better = score < self.best - min_delta
        self.best, self.waited = (score, 0) if better else (self.best, self.waited + 1)
        return self.waited


@dataclass
class Plateau(Patience):
    """The factor that schedule plateau puts on the learning rate."""

    factor: float = 1.0

    def reduce(self, score: float, train: Train) -> None:
        """Take the score of an epoch; lower the factor where patience has run out."""
        if self.see(score) > train.plateau.patience:
            lowest = train.plateau.floor / train.learning_rate
            self.factor, self.waited = max(self.factor * train.plateau.factor, lowest), 0
