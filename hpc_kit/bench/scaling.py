"""How timed epochs scale over nodes, ranks or cores: speed-up, efficiency, communication, cost. Pure; the login side.

Speed-up is the base case's epoch time over a point's, efficiency is the speed-up over the growth in size. The base
case is the smallest size that was measured. An epoch trains on the same graphs at every size, so both hold for strong
scaling (the whole batch stays the same) and for weak scaling (the batch of a rank stays the same, and an epoch has
fewer steps) alike.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpc_kit.bench.statistics import Effect, Side, contrast, ratio
from hpc_kit.plan import Task
from hpc_kit.spec.job import Resources

PAYS = 0.5  # the least marginal efficiency at which a larger size still pays
# A task, its row of the summary, the seconds of its epochs that count.
Run = tuple[Task, Mapping[str, Any], Sequence[float]]


@dataclass
class Point:
    """One size. `epoch_s` is the median over its runs of their median epochs. Intervals are of 95 %, by
    statistics.py: over runs, or, where a size has one run, over the epochs of that run alone. `communication` is the
    time of sums over the ranks over that of the epoch; `cost` is what one epoch costs in the site's unit, `used` what
    the point's tasks have used."""

    size: int
    label: str
    runs: int
    epoch_s: float
    interval: list[float] | None
    speedup: float
    speedup_interval: list[float] | None
    efficiency: float
    efficiency_interval: list[float] | None
    communication: float | None
    cost: float | None
    used: float | None
    unfit: int


@dataclass
class Series:
    """The sizes of one setting of the rest of the grid. `unit` is what `size` counts, `missing` says which tasks have
    no measurement and why, `verdict` up to where a larger size pays."""

    setting: str
    weak: bool
    unit: str
    points: list[Point]
    missing: list[str] = field(default_factory=list)
    verdict: str = ""


def varies(tasks: Sequence[Task]) -> bool:
    """Tell whether the tasks are of more than one size."""
    return len({task.resources.size for task in tasks}) > 1


def scaling(
    tasks: Sequence[Task],
    rows: Sequence[Mapping[str, Any]],
    epochs: Sequence[Sequence[float]],
    hourly: Callable[[Resources], float | None],
) -> list[Series]:
    """Return a series for each setting of what the grid varies beside resources; [] where there is one size alone.

    `rows` are the summary's, one a task; `epochs` the seconds of each task's epochs that count; `hourly` what an hour
    of a task's resources costs, None where nothing does.
    """
    if not varies(tasks):
        return []
    unit, size = _size_of(tasks)
    settings: dict[str, list[Run]] = {}
    for run in zip(tasks, rows, epochs, strict=True):
        settings.setdefault(_rest(run[0]), []).append(run)
    return [_series(name, runs, unit, size, hourly) for name, runs in settings.items()]


def _size_of(tasks: Sequence[Task]) -> tuple[str, Callable[[Resources], int]]:
    """Return what sizes count: nodes where they alone vary, else ranks, or cores where there is one number of
    ranks."""
    each = {task.resources.ranks_per_node for task in tasks}
    ranks = {task.resources.size[1] for task in tasks}
    if len(ranks) == 1:
        return "cores", lambda resources: resources.size[2]
    if len(each) == 1:
        return "nodes", lambda resources: resources.nodes
    return "ranks", lambda resources: resources.size[1]


def _rest(task: Task) -> str:
    return " ".join(f"{key}={value}" for key, value in task.cell.items() if key.split(".")[0] != "resources")


def _series(
    setting: str,
    runs: Sequence[Run],
    unit: str,
    size: Callable[[Resources], int],
    hourly: Callable[[Resources], float | None],
) -> Series:
    groups: dict[str, list[Run]] = {}
    missing = []
    for task, row, epochs in sorted(runs, key=lambda run: (size(run[0].resources), run[0].resources.size)):
        if row["state"] == "done":
            groups.setdefault(_label(task.resources), []).append((task, row, epochs))
        else:
            missing.append(f"{task.label}: {row['state']}{': ' + row['why'] if row.get('why') else ''}")
    sides = [Side([epochs for _, _, epochs in found]) for found in groups.values()]
    sizes = [size(found[0][0].resources) for found in groups.values()]
    effects = [ratio(sides[0], side) if n else None for n, side in enumerate(sides)]
    points = [
        _point(label, found, sizes[n], sizes[n] / sizes[0], sides[n], effects[n], hourly)
        for n, (label, found) in enumerate(groups.items())
    ]
    weak = runs[0][0].work.benchmark.weak
    return Series(setting, weak, unit, points, missing, verdict(points, unit))


def _point(
    label: str,
    found: Sequence[Run],
    size: int,
    growth: float,
    side: Side,
    faster: Effect | None,
    hourly: Callable[[Resources], float | None],
) -> Point:
    """Return the point of `found`, `growth` times the size of the base case and `faster` than that; None is the base
    case itself."""
    rows = [row for _, row, _ in found]
    median, speedup, spread = contrast([side], []), 1.0, None
    if faster is not None:
        speedup, spread = faster.ratio, _ends(faster)
    sums = [row["phases"]["all_reduce_s"] / row["median_epoch_s"] for row in rows if _sums(row) is not None]
    an_hour = hourly(found[0][0].resources)
    used = [row["charge"] for row in rows if row.get("charge") is not None]
    return Point(
        size=size,
        label=label,
        runs=len(rows),
        epoch_s=median.ratio,
        interval=_ends(median),
        speedup=speedup,
        speedup_interval=spread,
        efficiency=speedup / growth,
        efficiency_interval=[end / growth for end in spread] if spread else None,
        communication=statistics.median(sums) if sums else None,
        cost=None if an_hour is None else an_hour * median.ratio / 3600,
        used=sum(used) if used else None,
        unfit=sum(bool(row["unfit"]) for row in rows),
    )


def _ends(effect: Effect) -> list[float] | None:
    return None if effect.low is None else [effect.low, effect.high]


def _sums(row: Mapping[str, Any]) -> float | None:
    return (row.get("phases") or {}).get("all_reduce_s")


def _label(resources: Resources) -> str:
    return f"{resources.nodes} x {resources.ranks_per_node} x {resources.cpus_per_rank}"


def verdict(points: Sequence[Point], unit: str) -> str:
    """Return up to which size adding more pays: the largest that each step towards it from the base case on has a
    marginal efficiency of at least PAYS, (S_b / S_a - 1) / (b / a - 1) for a step from size a to size b."""
    best: dict[int, Point] = {}
    for point in points:
        if point.size not in best or point.speedup > best[point.size].speedup:
            best[point.size] = point
    sizes = sorted(best)
    if len(sizes) < 2:
        return "" if not sizes else f"one size alone was measured, {_count(sizes[0], unit)}: nothing to compare"
    for a, b in zip(sizes, sizes[1:], strict=False):
        gain = (best[b].speedup / best[a].speedup - 1) / (b / a - 1)
        if gain < PAYS:
            where = f"from {_count(a, unit)} to {b} the marginal efficiency is {gain:.0%}, less than {PAYS:.0%}"
            if a == sizes[0]:
                return f"adding {unit} does not pay: {where}"
            return f"adding {unit} pays up to {_count(a, unit)}: {where}"
    last = _count(sizes[-1], unit)
    return (
        f"adding {unit} pays up to {last}, the largest size measured (each step's marginal efficiency ≥ {PAYS:.0%})"
    )


def _count(number: int, unit: str) -> str:
    return f"{number} {unit if number != 1 else unit.removesuffix('s')}"
