"""Strategies of search held against each other at equal budgets, beside the numbers of the framework's paper
(table 4 and figure 1), and whether a difference is more than chance."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hpc_kit.search import chance
from hpc_kit.search.results import Search

Curves = dict[str, tuple[list[float], list[list[float]]]]
PREFIX = "search."  # keys of the grid that tell strategies apart; by all others, groups are made
PUBLISHED_NAMES = {"bayes": "deephyper", "random": "random"}


@dataclass(frozen=True)
class Group:
    """Searches that differ in their strategy and seed alone: `label` is what they have in common, `sides` strategy ->
    its searches."""

    label: str
    unit: str
    sides: dict[str, list[Search]]

    @property
    def searches(self) -> list[Search]:
        return [search for side in self.sides.values() for search in side]

    @property
    def budget(self) -> int:
        """How many trials of each search count in a comparison: as many as have ended in all of them."""
        return min(len(search.ended) for search in self.searches)


def groups(searches: Sequence[Search]) -> list[Group]:
    """Return the searches in groups, in the order in which they come up."""
    found: dict[str, Group] = {}
    for search in searches:
        cell = search.task.cell
        label = " ".join(f"{key}={value}" for key, value in cell.items() if not key.startswith(PREFIX))
        own = {key.removeprefix(PREFIX): value for key, value in cell.items() if key.startswith(PREFIX)}
        side = str(own["strategy"]) if set(own) == {"strategy"} else " ".join(f"{k}={v}" for k, v in own.items())
        group = found.setdefault(label, Group(label, search.unit, {}))
        group.sides.setdefault(side or search.strategy, []).append(search)
    return list(found.values())


def comparison(group: Group) -> dict[str, Any]:
    """Return the numbers of table 4 for each side, and of each pair of sides the rank test of the searches' bests;
    errors in the group's unit, None where there are none."""
    budget = group.budget
    sides = {name: _side(name, searches, budget) for name, searches in group.sides.items()}
    return {
        "label": group.label,
        "unit": group.unit,
        "budget": budget,
        "sides": sides,
        "tests": _tests({name: side["bests"] for name, side in sides.items()}) if budget else [],
        "published": published(group),
    }


def _side(name: str, searches: list[Search], budget: int) -> dict[str, Any]:
    """Return what one side's searches reached within `budget` trials each. min_loss and std_loss are those of all
    their trials together, as in table 4; `bests` the best of each search (None: none was done)."""
    errors = [error for search in searches for error in search.errors(budget)]
    bests = [min(search.errors(budget), default=None) for search in searches]
    known = [best for best in bests if best is not None]
    return {
        "searches": len(searches),
        "trials": budget * len(searches),
        "done": len(errors),
        "min_loss": min(errors, default=None),
        "std_loss": statistics.stdev(errors) if len(errors) > 1 else None,
        "median_loss": statistics.median(errors) if errors else None,
        "bests": bests,
        "median_best": statistics.median(known) if known else None,
    }


def _tests(bests: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """Return the rank test of each pair of sides, with its sentence. A search without any result counts as worse than
    all that have one."""
    names = list(bests)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    values = {name: [math.inf if best is None else best for best in several] for name, several in bests.items()}
    found = [chance.compare(values[a], values[b]) for a, b in pairs]
    adjusted = chance.adjusted([test.p for test in found])
    tests = []
    for (a, b), test, p in zip(pairs, found, adjusted, strict=True):
        said = chance.sentence(test, a, b, p)
        if len(pairs) > 1:
            said += f" (p is adjusted for {len(pairs)} comparisons.)"
        tests.append(
            {
                "first": a,
                "second": b,
                "p": test.p,
                "adjusted_p": p,
                "least_p": test.least_p,
                "first_lower": test.lower,
                "detectable_std": test.detectable,
                "more_than_chance": p <= chance.LEVEL,
                "sentence": said,
            }
        )
    return tests


def published(group: Group) -> dict[str, dict[str, float]]:
    """Return side -> the numbers of the paper's table 4 for the group's target, {} where it has none."""
    target = group.searches[0].target.lower()
    file = resources.files("hpc_kit.search") / "published_table4.csv"
    found = {}
    for row in csv.DictReader(file.read_text().splitlines()):
        for side in group.sides:
            if row["target"].lower() == target and row["method"] == PUBLISHED_NAMES.get(side):
                numbers = {"models": int(row["n_models"]), "epochs": int(row["epochs"])}
                found[side] = numbers | {key: float(row[key]) for key in ("min_loss", "std_loss")}
    return found


def against_trials(group: Group) -> Curves:
    """Return side -> numbers of trials from 1, and for each search its best after so many (inf: none yet)."""
    budget = group.budget
    numbers = [float(n) for n in range(1, budget + 1)]
    return {side: (numbers, [s.best_so_far(budget) for s in searches]) for side, searches in group.sides.items()}


def against_time(group: Group, points: int) -> Curves:
    """Return side -> `points` times in seconds until the last of the counted trials of any search, and for each
    search its best at that time; a search that has ended keeps what it had."""
    budget = group.budget
    ends = [search.end_times(budget) for search in group.searches]
    last = max((times[-1] for times in ends if times), default=0.0)
    times = [last * (n + 1) / points for n in range(points)]
    curves = {}
    for side, searches in group.sides.items():
        several = []
        for search in searches:
            steps = list(zip(search.end_times(budget), search.best_so_far(budget), strict=True))
            several.append([min((best for end, best in steps if end <= time), default=math.inf) for time in times])
        curves[side] = (times, several)
    return curves
