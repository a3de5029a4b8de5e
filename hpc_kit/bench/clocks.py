"""The clocks of a timed training's steps: perf_counter on the CPU, events on a GPU. Nothing waits in a step; a GPU's
events are read once, at the end of an epoch. The GPU's clock has not been run on a GPU.
"""

import time
from collections.abc import Callable

import torch

from hpc_kit.train.phases import Phases

PARTS = ("transfer_s", "forward_s", "backward_s", "optimizer_s")


class CpuClock(Phases):
    """Laps by time.perf_counter. `is_on` may be changed between two epochs."""

    def __init__(self) -> None:
        self.is_on = True
        self._mark = 0.0
        self._forget()

    def begin(self) -> None:
        if self.is_on:
            self._mark = time.perf_counter()

    def lap(self, part: str) -> None:
        if self.is_on:
            now = time.perf_counter()
            self._spent[part] += now - self._mark
            self._mark = now

    def summing(self) -> Callable[[], None] | None:
        if not self.is_on:
            return None
        began = time.perf_counter()
        return lambda: self._sums.append((began, time.perf_counter()))

    def read(self) -> dict[str, float] | None:
        """Return the seconds of each part and of the sums over ranks since the last reading; None while off."""
        spent = self._spent | {"all_reduce_s": union(self._sums)} if self.is_on else None
        self._forget()
        return spent

    def _forget(self) -> None:
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._sums: list[tuple[float, float]] = []


class GpuClock(Phases):
    """Laps by CUDA events on the stream that the step works on: the time between two events, the GPU's waiting for
    its next kernel with it."""

    def __init__(self, device: torch.device) -> None:
        self.is_on = True
        self._device = device
        self._spare: list[torch.cuda.Event] = []
        self._forget()

    def begin(self) -> None:
        if self.is_on:
            self._mark = self._event()

    def lap(self, part: str) -> None:
        if self.is_on:
            now = self._event()
            self._laps.append((part, self._mark, now))
            self._mark = now

    def summing(self) -> Callable[[], None] | None:
        if not self.is_on:
            return None
        began = self._event()
        return lambda: self._sums.append((began, self._event()))

    def read(self) -> dict[str, float] | None:
        """Return the seconds of each part and of the sums over ranks since the last reading; None while off. Waits
        for the device."""
        if not self.is_on:
            return None
        torch.cuda.synchronize(self._device)
        spent = dict.fromkeys(PARTS, 0.0)
        for part, began, ended in self._laps:
            spent[part] += began.elapsed_time(ended) / 1000
        first = self._laps[0][1] if self._laps else None
        sums = [(first.elapsed_time(a) / 1000, first.elapsed_time(b) / 1000) for a, b in self._sums] if first else []
        self._spare += dict.fromkeys(event for _, *pair in self._laps for event in pair)
        self._spare += [event for pair in self._sums for event in pair]
        self._forget()
        return spent | {"all_reduce_s": union(sums)}

    def _event(self) -> torch.cuda.Event:
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _forget(self) -> None:
        self._laps: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._sums: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._mark = None


def step_clock(device: torch.device) -> CpuClock | GpuClock:
    """Return the clock for steps on `device`."""
    return GpuClock(device) if device.type == "cuda" else CpuClock()


def union(spans: list[tuple[float, float]]) -> float:
    """Return how long at least one of `spans` (start, end) lasted."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
