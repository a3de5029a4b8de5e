"""All that a training is made of between two steps, to be written to last.pt and taken up again."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hpc_kit.train.checkpoint import parse_checkpoint, random_state, restore_random_state, save_checkpoint
from hpc_kit.train.optim import Patience, Plateau
from hpc_kit.train.pretrained import load_fitting


@dataclass
class Spent:
    """Where the time of an epoch went; the attempts that an epoch took are counted together."""

    started_at: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0
    eval_s: float = 0.0
    checkpoint_s: float = 0.0


class Clock:
    """Adds to `spent` as time passes: each `lap` counts the time since the one before."""

    def __init__(self, spent: Spent):
        self.spent = spent
        spent.started_at = spent.started_at or time.time()
        self._mark, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, part: str) -> float:
        """Count the time since the last lap as `part`, a field of Spent, and return its seconds."""
        now, cpu = time.perf_counter(), time.process_time()
        seconds = now - self._mark
        setattr(self.spent, part, getattr(self.spent, part) + seconds)
        self.spent.wall_s += seconds
        self.spent.cpu_s += cpu - self._cpu
        self._mark, self._cpu = now, cpu
        return seconds


@dataclass
class Progress:
    """How far a training has come. `batch` counts those done of epoch `epoch`; losses (of batches), norms (of the
    gradients of steps) and `spent` are that unfinished epoch's so far. `best` is the least validation score,
    `stopping` counts for early stopping."""

    epoch: int = 0
    batch: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    best: Patience = field(default_factory=Patience)
    best_epoch: int | None = None
    stopping: Patience = field(default_factory=Patience)
    plateau: Plateau = field(default_factory=Plateau)

    @property
    def place(self) -> tuple[int, int]:
        return self.epoch, self.batch

    def next_epoch(self) -> "Progress":
        """Return where the next epoch starts."""
        return Progress(
            self.epoch + 1, best=self.best, best_epoch=self.best_epoch, stopping=self.stopping, plateau=self.plateau
        )

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Progress":
        """Return what `asdict` made a dictionary of."""
        parts = {"spent": Spent, "best": Patience, "stopping": Patience, "plateau": Plateau}
        return cls(**{key: parts[key](**value) if key in parts else value for key, value in state.items()})


# torch 2.2, which the last DGL of the default index needs, has it under the second name only.
GradScaler = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler


@dataclass
class State:
    """Weights, optimiser, scaler of fp16's gradients, moving average where there is one, and progress."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    ema: AveragedModel | None
    progress: Progress = field(default_factory=Progress)

    @property
    def eval_model(self) -> nn.Module:
        """The module that is validated and kept: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def save(self, path: Path, record: dict[str, Any] | None) -> None:
        """Write everything to `path`, with the epoch's record in case its line is not written any more."""
        state = {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "random": random_state(),
            "record": record,
        }
        save_checkpoint(path, state)

    def load(self, path: Path, content: bytes) -> dict[str, Any] | None:
        """Take up `content`, which `save` wrote to `path`; return the record."""
        state = parse_checkpoint(path, content)
        load_fitting(self.model, state["model"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        restore_random_state(state["random"])
        self.progress = Progress.restore(state["progress"])
        return state["record"]
