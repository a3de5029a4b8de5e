"""The losses of an epoch's batches and the gradient norms of its steps: kept on the device, seen now and then."""

import math

import numpy as np
import torch

from hpc_kit.data.loader import Dataset
from hpc_kit.spec.errors import WorkError
from hpc_kit.train.distributed import Group
from hpc_kit.train.faults import not_finite
from hpc_kit.train.objective import Objective
from hpc_kit.train.state import State

LOOK_EVERY = 50  # optimiser steps between two looks, each of which waits for the device
AT_ONCE = ("cpu",)  # devices of which each step can be looked at without waiting
LEAST_SCALE = 1.0  # fp16's gradients are scaled to fit; below this, what does not fit is no overflow


class Measured:
    """losses [batches]: this rank's parts of them; norms [steps]: of the whole gradient, before clipping."""

    def __init__(self, batches: list[np.ndarray], accumulate: int, state: State, group: Group):
        self._batches, self._accumulate, self._state, self._group = batches, accumulate, state, group
        self.steps = math.ceil(len(batches) / accumulate)
        self.losses = torch.zeros(len(batches), dtype=torch.float64, device=group.device)
        self.norms = torch.zeros(self.steps, dtype=torch.float64, device=group.device)
        self._seen = state.progress.batch
        self._looks_at_once = group.device.type in AT_ONCE
        self._good: dict[str, torch.Tensor] = {}
        self._keep()

    def is_due(self, step: int) -> bool:
        """Tell whether to look before the optimiser takes step `step`.

        On the CPU at once where the gradient is not finite. A GPU would have to be waited for at every step to know:
        there a look comes every LOOK_EVERY steps, and before anything is written.
        """
        at_once = self._looks_at_once and not math.isfinite(self.norms[step])
        return at_once or (step + 1) % LOOK_EVERY == 0 or step + 1 == self.steps

    def look(self, objective: Objective, data: Dataset) -> None:
        """Take what was measured since the last look into the progress; all ranks come here together.

        Raises WorkError naming the graphs where a loss or a gradient is not finite. A gradient beyond fp16's range is
        none of that: its scaler leaves the step out and scales the next ones less.
        """
        progress, scaler = self._state.progress, self._state.scaler
        step, end = (math.ceil(batch / self._accumulate) for batch in (self._seen, progress.batch))
        losses = self._group.sum(self.losses[self._seen : progress.batch]).cpu().numpy()
        norms = self.norms[step:end].cpu().numpy()
        bad_loss, bad_norm = _first_bad(losses), _first_bad(norms)
        if scaler.is_enabled() and scaler.get_scale() >= LEAST_SCALE:
            bad_norm = None
        if bad_loss is not None and (
            bad_norm is None or (self._seen + bad_loss) // self._accumulate <= step + bad_norm
        ):
            what = f"the loss is {losses[bad_loss]}"
            raise self._fault(what, self._seen + bad_loss, 1, objective, data)
        if bad_norm is not None:
            what = f"the loss is finite and its gradient's norm is {norms[bad_norm]}"
            raise self._fault(what, (step + bad_norm) * self._accumulate, self._accumulate, objective, data)
        progress.losses += losses.tolist()
        progress.norms += norms.tolist()
        self._seen = progress.batch
        self._keep()

    def _fault(self, what: str, start: int, count: int, objective: Objective, data: Dataset) -> WorkError:
        """Return the error for `count` batches from `start` on, tried with weights from before the fault."""
        if self._good:
            self._state.model.load_state_dict(self._good)
        batches = self._batches[start : start + count]
        where = f"batch {start}" if len(batches) == 1 else f"batches {start} to {start + len(batches) - 1}"
        where = f"epoch {self._state.progress.epoch}, {where}"
        members = np.concatenate(batches)
        return not_finite(what, where, members, objective, self._state.model, data, self._group)

    def _keep(self) -> None:
        """Keep the weights to find the cause of a bad step with, where more steps are taken before it is seen."""
        if not self._looks_at_once:
            self._good = {name: value.clone() for name, value in self._state.model.state_dict().items()}


def _first_bad(values: np.ndarray) -> int | None:
    bad = np.flatnonzero(~np.isfinite(values))
    return int(bad[0]) if len(bad) else None
