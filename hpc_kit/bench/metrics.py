"""From the lines of timed epochs to whether they are enough, and to metrics.json. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hpc_kit.bench import fitness
from hpc_kit.bench.meters import NOT_READABLE
from hpc_kit.bench.statistics import median_interval, relative_width

LEAST_EPOCHS = 3  # of fewer that count no time is given
Line = Mapping[str, Any]


def counted(lines: Sequence[Line]) -> list[Line]:
    """Return the epochs that count: measured ones (a line whose process was killed before it was written has no
    measurements), after the warm-up. Of a training the warm-up is the first epoch."""
    if any("warmup" in line for line in lines):
        return [line for line in lines if line.get("warmup") is False]
    return [line for line in lines[1:] if line["wall_s"] is not None]


def too_few(count: int) -> str:
    """Return why there is no time of `count` epochs that count."""
    return f"has {count} timed epochs after its warm-up; {LEAST_EPOCHS} are needed"


def why_enough(lines: Sequence[Line], asked, budget_s: float) -> str | None:
    """Return why no more epochs are to be timed, None where they are: "width", "max_epochs" or "budget".

    `asked` is the job's Benchmark, `budget_s` what all epochs together may take.
    """
    walls = [line["wall_s"] for line in counted(lines)]
    width = relative_width(walls)
    if len(walls) >= asked.min_epochs and width is not None and width <= asked.width:
        return "width"
    if len(walls) >= asked.max_epochs:
        return "max_epochs"
    return "budget" if sum(line["wall_s"] or 0.0 for line in lines) >= budget_s else None


def metrics(lines: Sequence[Line], asked, ended_by: str, open_s: float) -> dict[str, Any]:
    """Return the content of metrics.json. Times are in seconds, energies in joules of one epoch, memory in MB of the
    rank with most; `open_s` is what opening the data and building the model took in the last attempt.

    Rates are those of the median epoch. `phases` and `energy_j` are medians, each alone. `rank_spread` is the median
    of (slowest - fastest) / slowest over ranks.
    """
    timed = counted(lines)
    walls = [line["wall_s"] for line in timed]
    median, interval, last = statistics.median(walls), median_interval(walls), timed[-1]
    return {
        "median_epoch_s": median,
        "interval": list(interval) if interval else None,
        "width": relative_width(walls),
        "ended_by": ended_by,
        "epochs": len(timed),
        "warmup_epochs": sum(line.get("warmup") is not False for line in lines),
        "first_epoch_s": lines[0]["wall_s"],
        "open_s": open_s,
        "cache": asked.cache,
        "unfit": fitness.reasons(timed, asked.cache),
        **{f"{what}_per_s": last[what] / median for what in ("graphs", "atoms", "edges")},
        "world_size": last["world_size"],
        "rank_spread": statistics.median(1 - low / high for low, high in (line["rank_wall_s"] for line in timed)),
        "phases": _phases(timed),
        "overhead": overhead(timed) if asked.measure_overhead else None,
        "peak_rss_mb": max(line["peak_rss_mb"] for line in timed),
        "peak_gpu_mb": max((line["peak_gpu_mb"] for line in timed if line["peak_gpu_mb"] is not None), default=None),
        "energy_j": {part: _energy([line["energy_j"][part] for line in timed]) for part in ("gpu", "cpu")},
    }


def overhead(timed: Sequence[Line]) -> dict[str, Any] | None:
    """Return what the clocks of the phases cost: of pairs of epochs next to each other, one with the clocks and one
    without, the median ratio of their times, its 95 % interval and the number of pairs; None without pairs."""
    ratios = []
    for one, other in zip(timed[::2], timed[1::2], strict=False):
        if (one["phases"] is None) != (other["phases"] is None):
            with_clocks, without = (other, one) if one["phases"] is None else (one, other)
            ratios.append(with_clocks["wall_s"] / without["wall_s"])
    if not ratios:
        return None
    interval = median_interval(ratios)
    return {
        "ratio": statistics.median(ratios),
        "interval": list(interval) if interval else None,
        "pairs": len(ratios),
    }


def _phases(timed: Sequence[Line]) -> dict[str, float | None] | None:
    known = [line["phases"] for line in timed if line["phases"] is not None]
    if not known:
        return None
    return {
        part: None if known[0][part] is None else statistics.median(phases[part] for phases in known)
        for part in known[0]
    }


def _energy(values: Sequence[float | str]) -> float | str:
    return NOT_READABLE if NOT_READABLE in values else statistics.median(values)
