"""What can be asked of a task that is done: its test errors, the time of an epoch, any number of metrics.json."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_kit.bench import fitness
from hpc_kit.bench.metrics import LEAST_EPOCHS, counted, too_few
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.status import TaskStatus
from hpc_kit.spec.errors import InputError, WorkError, allowed

NAMES = {
    "test_mae": "test MAE",
    "test_rmse": "test RMSE",
    "test_r2": "test R²",
    "epoch_s": "time of an epoch",
    "graphs_per_s": "graphs a second",
    "peak_rss_mb": "memory",
    "peak_gpu_mb": "GPU memory",
    "parameters": "trained numbers",
}
TIMES = ("epoch_s", "graphs_per_s", "median_epoch_s", "atoms_per_s", "edges_per_s")
MORE_IS_BETTER = ("test_r2", "graphs_per_s", "atoms_per_s", "edges_per_s")
UNITS = {"_per_s": "1/s", "_s": "s", "_mb": "MB", "_j": "J"}  # by how a name ends


@dataclass(frozen=True)
class Measure:
    """A quantity by the name that users give it, what it is called on an axis, and its unit; "" where it has none
    or the cells of a study differ in it. `sign` is -1 where more is better."""

    key: str
    name: str
    unit: str = ""
    sign: int = 1

    @property
    def title(self) -> str:
        return f"{self.name} / {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Found:
    """What one task has measured: name -> (value, unit); why it has not, for all names and for single ones; and why
    its times are unfit to be compared (fitness.py)."""

    values: dict[str, tuple[float, str]]
    reason: str = ""
    reasons: dict[str, str] | None = None
    unfit: tuple[str, ...] = ()

    def why_not(self, name: str) -> str:
        return self.reason or (self.reasons or {}).get(name) or f"its records hold no {name}"


def find_measures(folder: TaskDir, status: TaskStatus) -> Found:
    """Return all that a task has measured; nothing, and why, where it is not done or its records are damaged."""
    if status.state != "done":
        return Found({}, ": ".join(filter(None, (status.state, " ".join(status.reason.split())))))
    try:
        metrics, epochs = folder.read_metrics(dict[str, Any]), folder.read_epochs()
    except (InputError, WorkError) as error:
        return Found({}, str(error))
    values, reasons = _of_epochs(epochs)
    targets = metrics.get("targets") or {}
    for target, errors in targets.items():
        for key, value in errors.items():
            unit = "" if key in ("test_r2", "mae_deviation") else errors.get("unit", "")
            if _is_number(value):
                values[f"{key}:{target}"] = (float(value), unit)
                if len(targets) == 1:
                    values[key] = (float(value), unit)
            elif key.startswith("test_") and value is None:
                reasons[key] = reasons[f"{key}:{target}"] = "it was not tested: its test part is empty"
    for key, value in _numbers({name: part for name, part in metrics.items() if name != "targets"}):
        values.setdefault(key, (value, _unit(key)))
    unfit = metrics["unfit"] if "unfit" in metrics else fitness.reasons(counted(epochs))
    return Found(values, "", reasons, tuple(unfit))


def named(name: str, found: Sequence[Found], where: Path) -> Measure:
    """Return the measure `name` as the tasks have it. Raises InputError where no task has it though some are done."""
    units = {one.values[name][1] for one in found if name in one.values}
    known = {key for one in found for key in one.values} | {key for one in found for key in one.reasons or ()}
    if not units and known and name not in known:
        several = sorted(key for key in known if key.startswith(f"{name}:"))
        hint = f"say of which target: {', '.join(several)}" if several else allowed(name, sorted(known))
        raise InputError(f"{where}: no task has measured {name!r}; {hint}")
    key, _, target = name.partition(":")
    title = NAMES.get(key, key) + (f" of {target}" if target else "")
    if len(units) > 1:
        return Measure(name, f"{title}, each in its own unit")
    return Measure(name, title, units.pop() if units else _unit(key), -1 if key in MORE_IS_BETTER else 1)


def _of_epochs(lines: list[dict[str, Any]]) -> tuple[dict[str, tuple[float, str]], dict[str, str]]:
    """Return time and speed by the median of the epochs that count, and memory."""
    values = {}
    for key in ("peak_rss_mb", "peak_gpu_mb"):
        peaks = [line[key] for line in lines if line.get(key)]
        if peaks:
            values[key] = (float(max(peaks)), "MB")
    timed = counted(lines)
    if len(timed) < LEAST_EPOCHS:
        return values, dict.fromkeys(("epoch_s", "graphs_per_s"), too_few(len(timed)))
    work = sum(line["data_wait_s"] + line["compute_s"] for line in timed)
    values["epoch_s"] = (statistics.median(line["wall_s"] for line in timed), "s")
    if work > 0:
        values["graphs_per_s"] = (sum(line["graphs"] for line in timed) / work, "1/s")
    return values, {}


def _numbers(fields: dict[str, Any], before: str = "") -> list[tuple[str, float]]:
    found = []
    for key, value in fields.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{before}{key}.")
        elif _is_number(value):
            found.append((f"{before}{key}", float(value)))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unit(key: str) -> str:
    for part in reversed(key.split(".")):
        for end, unit in UNITS.items():
            if part.endswith(end):
                return unit
    return ""
