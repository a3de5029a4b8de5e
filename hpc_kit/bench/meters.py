"""What a node tells of its state while epochs are timed: work of others, waiting for cores, throttling, energy.

What cannot be read is None, or "not readable" for energy; never 0.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_kit.machine import read_text

STAT, POWERCAP, CPUS = Path("/proc/stat"), Path("/sys/class/powercap"), Path("/sys/devices/system/cpu")
TICKS = os.sysconf("SC_CLK_TCK")
NOT_READABLE = "not readable"
# nvml.h: what slows a GPU's clocks down beside having nothing to do and what its user has set
GPU_SLOWED = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}


@dataclass
class Reading:
    """Counters at one moment: `busy_s`, `steal_s` of the node's cores; `queued_s` that this process's threads waited
    for a core; `throttled` events of its CPUs; `rapl_uj` of each package with its range; `gpu_mj` of this rank's GPU
    and `gpu_slowed`, NVML's reasons at this moment."""

    busy_s: float | None
    steal_s: float | None
    queued_s: float | None
    throttled: int | None
    rapl_uj: dict[str, tuple[int, int]]
    gpu_mj: int | None
    gpu_slowed: int | None


@dataclass
class Meters:
    """Reads the counters. `gpu_uuid` is that of this rank's GPU, None on the CPU."""

    gpu_uuid: str | None = None
    _gpu: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.gpu_uuid is None:
            return
        try:
            import pynvml as nvml

            nvml.nvmlInit()
            name = self.gpu_uuid if self.gpu_uuid.startswith("GPU-") else f"GPU-{self.gpu_uuid}"
            self._gpu = nvml.nvmlDeviceGetHandleByUUID(name)
        except Exception:  # no package, no library, no such GPU for NVML: its counters are not readable
            self._gpu = None

    def read(self) -> Reading:
        busy, steal = _cores()
        gpu_mj, slowed = self._of_gpu()
        return Reading(busy, steal, _queued(), _throttled(), rapl(POWERCAP), gpu_mj, slowed)

    def _of_gpu(self) -> tuple[int | None, int | None]:
        if self._gpu is None:
            return None, None
        import pynvml as nvml

        found = []
        for function in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            try:
                found.append(getattr(nvml, function)(self._gpu))
            except Exception:  # not supported by this GPU or driver
                found.append(None)
        return found[0], found[1]


def between(before: Reading, now: Reading) -> dict[str, Any]:
    """Return what happened between two readings, and why clocks were slowed down."""
    causes = [name for bit, name in GPU_SLOWED.items() if (now.gpu_slowed or 0) & bit]
    events = _less(now.throttled, before.throttled)
    return {
        "busy_s": _less(now.busy_s, before.busy_s),
        "steal_s": _less(now.steal_s, before.steal_s),
        "queued_s": _less(now.queued_s, before.queued_s),
        "throttled": [*([f"{events} thermal events of the CPU"] if events else []), *(f"GPU: {c}" for c in causes)],
        "cpu_j": joules(before.rapl_uj, now.rapl_uj),
        "gpu_j": None if None in (before.gpu_mj, now.gpu_mj) else (now.gpu_mj - before.gpu_mj) / 1000,
    }


def joules(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> float | None:
    """Return the energy of all CPU packages between two readings of RAPL, None where none is readable.

    A counter that is less than before has gone round once. One that went round twice, at some hundred watts after
    half an hour, cannot be told from that.
    """
    if not before or before.keys() != now.keys():
        return None
    gone = (now[name][0] - before[name][0] + (now[name][1] if now[name][0] < before[name][0] else 0) for name in now)
    return sum(gone) / 1e6


def rapl(folder: Path) -> dict[str, tuple[int, int]]:
    """Return each CPU package's counter and where it goes round, in microjoules; {} where any cannot be read."""
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        if zone.name.count(":") > 1:  # a part of a package, counted with it
            continue
        counter, most = (read_text(zone / name) for name in ("energy_uj", "max_energy_range_uj"))
        if not (counter and counter.isdigit() and most and most.isdigit()):
            return {}
        found[zone.name] = int(counter), int(most)
    return found


def _cores() -> tuple[float | None, float | None]:
    fields = (read_text(STAT) or "").split("\n", 1)[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None, None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS


def _queued() -> float | None:
    waits = [read_text(path) for path in Path("/proc/self/task").glob("*/schedstat")]
    waits = [int(text.split()[1]) for text in waits if text]
    return sum(waits) / 1e9 if waits else None


def _throttled() -> int | None:
    counts = [read_text(path) for path in CPUS.glob("cpu*/thermal_throttle/*_throttle_count")]
    counts = [int(text) for text in counts if text and text.isdigit()]
    return sum(counts) if counts else None


def _less(now: float | None, before: float | None) -> float | None:
    """Return the growth of a counter; those of threads that have ended are missing from `now`."""
    return None if None in (now, before) else max(0, now - before)
