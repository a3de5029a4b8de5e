"""How far the errors of several targets are from published ones, over seeds: (MAE - published) / published, as in
eq. 1 and figure 1 of Li et al., Digital Discovery 3, 1123 (2024), doi 10.1039/d4dd00064a.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from hpc_kit.bench.measures import find_measures
from hpc_kit.bench.published import Table
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.spec.errors import InputError
from hpc_kit.text import in_unit

AXIS = "data.target"
MEASURE = "test_mae"
FEW = 4  # targets named in a sentence


@dataclass(frozen=True)
class Deviation:
    """One target: its MAE of each seed in `unit`, the published one, and the deviations' least, greatest, mean and
    standard deviation (n - 1; None with one seed). `within`: the published MAE is between the least and the greatest
    of ours. `graphs`: how many have the target here, and `published_graphs` there. `guess`: the MAE of always
    guessing the training mean, to hold against the published mean absolute deviation `mad` of the data: where these
    differ much, the two are not the same quantity or not the same data."""

    target: str
    property: str
    unit: str
    maes: list[float]
    published: float | None
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    within: bool | None
    graphs: int | None
    published_graphs: int | None
    guess: float | None
    mad: float | None
    missing: list[str]


def deviations(run: RunDir, table: Table) -> list[Deviation]:
    """Return a Deviation a target of a run of trainings, in the order of the published table, others behind.

    A target whose tasks have not ended well has no numbers, and `missing` says why of each. Raises InputError where
    the run has other axes than targets, or none of the published targets.
    """
    if AXIS not in table.columns or MEASURE not in table.columns:
        raise InputError(f"{table.path}: holds no {AXIS} and {MEASURE} to deviate from")
    plan = run.read_plan()
    run.require_tasks()
    if plan.kind != "train":
        raise InputError(f"{run.path}: is a run of kind {plan.kind}; targets are trained by jobs of kind train")
    if others := [axis for axis in plan.tasks[0].cell if axis != AXIS]:
        raise InputError(
            f"{run.path}: its grid varies {', '.join(others)} too: of a target there must be one setting, over seeds"
        )
    published = {row[AXIS]: row for row in table.rows}
    if len(published) < len(table.rows):
        raise InputError(f"{table.path}: has several studies of one target; deviations are from one study")
    maes: dict[str, list[float]] = {}
    missing: dict[str, list[str]] = {}
    units, guesses, graphs = {}, {}, {}
    for task, status in zip(plan.tasks, read_statuses(run), strict=True):
        found = find_measures(run.task(task.id), status)
        for target in task.work.data.target:
            name = f"{MEASURE}:{target}"
            maes.setdefault(target, [])
            missing.setdefault(target, [])
            units[target] = task.work.units[target]
            if name not in found.values:
                missing[target].append(f"seed={task.seed}: {found.why_not(name)}")
                continue
            maes[target].append(found.values[name][0])
            guesses[target] = found.values[f"baseline_mae:{target}"][0]
            parts = [found.values[f"graphs.{part}"][0] for part in ("train", "val", "test")]
            graphs[target] = int(sum(parts))
    if not maes.keys() & published.keys():
        raise InputError(f"{run.path}: none of its targets ({', '.join(maes)}) is one of {table.path.name}")
    order = [name for name in published if name in maes] + [name for name in maes if name not in published]
    return [
        _deviation(
            target, maes[target], missing[target], units[target], guesses.get(target), graphs.get(target), published
        )
        for target in order
    ]


def _deviation(
    target: str,
    maes: list[float],
    missing: list[str],
    unit: str,
    guess: float | None,
    graphs: int | None,
    published: dict[str, dict[str, str]],
) -> Deviation:
    row = published.get(target, {})
    theirs = float(row[MEASURE]) if row.get(MEASURE) else None
    if row.get("unit") not in (None, unit):
        raise InputError(f"{target}: is in {unit or 'no unit'} here and published in {row['unit'] or 'no unit'}")
    off = [(mae - theirs) / theirs for mae in maes] if theirs else []
    return Deviation(
        target=target,
        property=row.get("property") or target,
        unit=unit,
        maes=maes,
        published=theirs,
        min=min(off, default=None),
        max=max(off, default=None),
        mean=statistics.mean(off) if off else None,
        std=statistics.stdev(off) if len(off) > 1 else None,
        within=min(maes) <= theirs <= max(maes) if off else None,
        graphs=graphs,
        published_graphs=round(float(row["graphs"])) if row.get("graphs") else None,
        guess=guess,
        mad=float(row["mad"]) if row.get("mad") else None,
        missing=missing,
    )


def deviation_rows(found: Sequence[Deviation]) -> list[dict[str, Any]]:
    """Return a row a target, for CSV: the MAEs of the seeds in one column."""
    rows = [asdict(one) for one in found]
    for row in rows:
        row["maes"] = " ".join(f"{mae!r}" for mae in row["maes"])
        row["missing"] = "; ".join(row["missing"]) or None
    return rows


def print_deviations(found: Sequence[Deviation], console: Console) -> None:
    """Print a row a target, and how many published values lie within the seeds' range."""
    line = "{:25} {:>18} {:>9} {:>16} {:>20} {:>5} {:>6}"
    head = ("target", "MAE", "published", "deviation / %", "least to greatest", "in it", "data")
    rows = [
        (
            one.target,
            in_unit(statistics.mean(one.maes), one.unit) if one.maes else "missing",
            in_unit(one.published, one.unit, with_unit=False),
            " ± ".join([*_percents("+", one.mean), *_percents("", one.std)]) or "-",
            " to ".join(_percents("+", one.min, one.max)) or "-",
            {None: "-", True: "yes", False: "no"}[one.within],
            "-" if one.graphs is None else one.graphs,
        )
        for one in found
    ]
    for row in (head, *rows):
        console.print(line.format(*row).rstrip(), soft_wrap=True, highlight=False)
    for line in in_words(found):
        console.print(line, soft_wrap=True, highlight=False)
    for one in found:
        for reason in one.missing:
            console.print(f"missing: {one.target} {reason}", soft_wrap=True, highlight=False)


def _percents(sign: str, *shares: float | None) -> list[str]:
    known = [100 * share for share in shares if share is not None]
    return [f"{value:{sign}.1f}" if abs(value) < 100 else f"{value:{sign}.0f}" for value in known]


def in_words(found: Sequence[Deviation]) -> list[str]:
    """Return how many published values lie within the range of the seeds, and how near the others are."""
    known = [one for one in found if one.within is not None]
    outside = [one for one in known if not one.within]
    lines = [f"{len(known) - len(outside)} of {len(known)} published values lie within the range of our seeds"]
    if outside:
        nearest = [min((one.min, one.max), key=abs) for one in outside]
        worst = max(range(len(outside)), key=lambda n: abs(nearest[n]))
        lines.append(
            f"of the other {len(outside)} the nearest seed is off by {abs(nearest[worst]):.1%} at most"
            f" ({outside[worst].target})"
        )
    odd = [one for one in known if one.guess and one.mad and not 0.5 <= one.guess / one.mad <= 2.0]
    if odd:
        named = ", ".join(f"{one.target} ({one.guess:.3g} and {one.mad:.3g} {one.unit})" for one in odd[:FEW])
        more = f" and {len(odd) - FEW} more" if len(odd) > FEW else ""
        lines.append(
            "other data than those published, by the error of guessing the mean against the published mean deviation"
            f" of the data: {named}{more}"
        )
    return lines


def draw(canvas: Any, found: Sequence[Deviation]) -> Any:
    """Return the figure of figure 1: bars from least to greatest deviation, their mean and standard deviation, and
    below how many graphs have each target."""
    known = [one for one in found if one.min is not None]
    places = range(len(known))
    figure, (above, below) = canvas(max(4.0, 1.5 + 0.27 * len(known)), 5.0, 2, sharex=True, height_ratios=(2, 1))
    for place, one in zip(places, known, strict=True):
        above.plot(
            [place] * 2, [100 * one.min, 100 * one.max], color="#0072b2", lw=5, alpha=0.4, solid_capstyle="butt"
        )
    means = [100 * one.mean for one in known]
    spread = [100 * (one.std or 0.0) for one in known]
    above.errorbar(places, means, yerr=spread, fmt="o", ms=4, color="#d55e00", capsize=2, lw=1)
    above.plot([], [], color="#0072b2", lw=5, alpha=0.4, label="least to greatest of the seeds")
    above.plot([], [], "o", color="#d55e00", label="mean and standard deviation")
    above.axhline(0.0, color="black", lw=0.8)
    above.set_ylabel("MAE deviation / %")
    above.legend(fontsize=7, frameon=False)
    below.bar(places, [one.graphs for one in known], color="#009e73")
    below.set_yscale("log")
    below.set_ylabel("structures")
    below.set_xlabel("property")
    below.set_xticks(places, [one.property for one in known], rotation=90, fontsize=7)
    return figure
