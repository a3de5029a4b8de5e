"""Holds the timings of runs against each other: how much slower, whether that is more than chance, and whether the
two may be compared at all.

Not for: the statistics (statistics.py), the table of fields (fields.py), a limit to be kept to (baseline.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpc_kit.bench.configurations import Configuration, other_work, pairs, read_configurations, require_distinct
from hpc_kit.bench.fields import MEASURE, Difference, differences
from hpc_kit.bench.statistics import Effect, Side, contrast, ratio
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.errors import InputError

SCHEMA = 1
COMPARABLE, NORMALISED, NOT_COMPARABLE = "comparable", "comparable when normalised", "not comparable"
SLOWER, FASTER, NONE_SEEN, NOT_JUDGED = "slower", "faster", "no difference seen", "not judged"
MOST_NAMED = 6  # keys of other work


@dataclass(frozen=True)
class Compared:
    """One configuration of B against that of A. `effect` is B over A, None where one of them has no timings;
    `normalised` is the same with each taken over the reference configuration of its own run. `difference` says what
    the interval says of B; `verdict` whether A and B were timed under the same conditions, for `reasons`."""

    label: str
    medians: tuple[float | None, float | None]
    runs: tuple[int, int]
    effect: Effect | None
    normalised: Effect | None
    fields: list[Difference]
    verdict: str
    reasons: list[str]

    @property
    def difference(self) -> str:
        judged = self.normalised or self.effect
        if judged is None or judged.holds_one is None:
            return NOT_JUDGED
        return NONE_SEEN if judged.holds_one else SLOWER if judged.ratio > 1 else FASTER

    def as_json(self) -> dict[str, Any]:
        fields = {"runs": list(self.runs), "medians": list(self.medians), "difference": self.difference}
        return asdict(self) | fields


class Sides:
    """The sides of configurations, each made once: what is drawn for one serves all comparisons."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Configuration, Side]] = {}

    def of(self, one: Configuration) -> Side:
        if id(one) not in self._made:
            self._made[id(one)] = (one, Side([run.seconds for run in one.runs]))
        return self._made[id(one)][1]


def compare_runs(runs: Sequence[RunDir], normalise_to: str | None = None, measure: str = "wall_s") -> dict[str, Any]:
    """Compare the timings of each further run with those of the first, as JSON.

    Raises InputError where no configuration of a run does the work of one of the first, naming what differs; where
    none is called `normalise_to`; and as read_configurations does.
    """
    require_distinct(runs)
    first, *others = runs
    a, sides = read_configurations(first, measure), Sides()
    found = []
    for other in others:
        b = read_configurations(other, measure)
        compared = compare(a, b, normalise_to, sides, (str(first.path), str(other.path)))
        found.append({"run": str(other.path), **compared})
    return {
        "schema_version": SCHEMA,
        "measure": measure,
        "base": str(first.path),
        "normalised_to": normalise_to,
        "runs": found,
    }


def compare(
    a: list[Configuration],
    b: list[Configuration],
    normalise_to: str | None,
    sides: Sides,
    names: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Return the comparison of two runs' configurations, `names` of which are for the errors: `configurations`, and
    `unpaired`, those that only one of them has."""
    matched = [(one, twin) for one, twin in pairs(a, b)]
    paired = [(one, twin) for one, twin in matched if twin is not None]
    if not paired:
        raise InputError(refusal(a, b, names))
    reference = _reference(paired, normalise_to) if normalise_to is not None else None
    compared = [_compared(one, twin, reference, len(paired) > 1, sides) for one, twin in paired]
    used = {id(twin) for _, twin in paired}
    lone = [{"of": names[0], "label": one.label} for one, twin in matched if twin is None]
    lone += [{"of": names[1], "label": one.label} for one in b if id(one) not in used]
    return {"configurations": [one.as_json() for one in compared], "unpaired": lone}


def refusal(a: list[Configuration], b: list[Configuration], names: tuple[str, str]) -> str:
    """Return why two runs are not to be compared: what differs between the two pieces of work that are nearest."""
    nearest = min((other_work(one, other) for one in a for other in b), key=len)
    more = f" and {len(nearest) - MOST_NAMED} more" if len(nearest) > MOST_NAMED else ""
    differing = "; ".join(nearest[:MOST_NAMED])
    if not nearest:
        differing = "the values of their grids over resources"
    elif [text.split(":")[0] for text in nearest] == ["world_size"]:
        more = ". One job with a grid over resources compares numbers of ranks"
    return f"{names[1]}: does other work than {names[0]}, so their times say nothing of each other: {differing}{more}"


def _reference(paired: Sequence[tuple[Configuration, Configuration]], label: str):
    named = [pair for pair in paired if pair[0].label == label]
    if not named:
        labels = ", ".join(repr(one.label) for one, _ in paired if one.label)
        there = f"there are {labels}" if labels else "their jobs have no grid, and so one configuration alone"
        raise InputError(f"--normalise-to {label!r}: no configuration that both runs have is called so; {there}")
    if not all(one.runs for one in named[0]):
        missing = "; ".join(reason for one in named[0] for reason in one.missing)
        raise InputError(f"--normalise-to {label!r}: has no timings in one of the runs: {missing}")
    return named[0]


def _compared(one, twin, reference, has_others: bool, sides: Sides) -> Compared:
    """Return what is to be said of a configuration `one` of A and its `twin` of B."""
    reasons = [f"{name} is unfit: {reason}" for name, of in (("A", one), ("B", twin)) for reason in of.unfit]
    if not (one.runs and twin.runs):
        lacking = [*(one.missing if not one.runs else ()), *(twin.missing if not twin.runs else ())]
        medians = tuple(sides.of(side).median if side.runs else None for side in (one, twin))
        counts = (len(one.runs), len(twin.runs))
        return Compared(one.label, medians, counts, None, None, [], NOT_COMPARABLE, [*lacking, *reasons])
    a, b = sides.of(one), sides.of(twin)
    effect, normalised = ratio(b, a), None
    if reference is not None and reference[0] is not one:
        base_a, base_b = (sides.of(side) for side in reference)
        normalised = contrast([b, base_a], [a, base_b])
        reasons += [f"of the reference: {reason}" for side in reference for reason in side.unfit]
    fields = differences([run.conditions for run in one.runs], [run.conditions for run in twin.runs])
    verdict, why = _verdict(fields, reasons, normalised, reference, one, has_others)
    notes = [f"left out: {reason}" for side in (one, twin) for reason in side.missing]
    unknown = [field.field for field in fields if field.matters is None]
    if unknown:
        notes.append(f"differs, and it is not known whether it matters: {', '.join(unknown)}")
    if not effect.is_of_runs:
        notes.append("one run on a side: chance cannot be judged; give the job several seeds")
    medians, counts = (a.median, b.median), (len(one.runs), len(twin.runs))
    return Compared(one.label, medians, counts, effect, normalised, fields, verdict, [*reasons, *why, *notes])


def _verdict(fields, unfit, normalised, reference, one, has_others: bool) -> tuple[str, list[str]]:
    """Return the verdict and what speaks for it, beside what makes runs unfit."""
    breaking = [field for field in fields if field.matters and field.kind == MEASURE]
    speed = [field for field in fields if field.matters and field.kind != MEASURE]
    why = [field.as_text() for field in (*breaking, *speed)]
    if unfit or breaking:
        return NOT_COMPARABLE, why
    if not speed:
        return COMPARABLE, [*why, "the same work under the same conditions, as far as they are recorded"]
    if normalised is not None:
        return NORMALISED, [*why, f"each run is taken over its own {reference[0].label!r}"]
    if reference is not None and reference[0] is one:
        return NORMALISED, [*why, "it is what the others are taken over"]
    if has_others:
        return NORMALISED, [*why, "--normalise-to LABEL takes each run over one of its own configurations"]
    return NOT_COMPARABLE, [*why, "there is no second configuration to normalise to"]
