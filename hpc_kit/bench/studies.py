"""Studies: what each cell of a run's grid reached in chosen measures, over its seeds, as it is or over another cell.

Not for: fronts (pareto.py), published studies (published.py), tables, figures and pages (study_*.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_kit.bench.measures import TIMES, Measure, find_measures, named
from hpc_kit.bench.statistics import LEVEL, quantile_of_t, welch_freedom
from hpc_kit.plan import Plan, flow
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.spec.errors import InputError

MOST_NAMED = 6  # cells in a message
Place = tuple[str, ...]  # a cell: the values of the axes, as text


@dataclass(frozen=True)
class Cell:
    """What the runs of one cell measured: `values` [runs, measures]. `missing` says of each run without a value why,
    as in "seed=1: out_of_memory: …", `unfit` of each whose time counts and should not: its machine was busy."""

    values: np.ndarray
    missing: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """The mean of a cell's runs, `low` to `high` its 95 % interval; None with a single run, which tells no spread."""

    value: float
    low: float | None
    high: float | None
    runs: int


@dataclass(frozen=True)
class Study:
    """The cells of a grid over `axes`, keys of a job file. `over` is the cell that values are divided by. `half` is
    half of the last digit of a printed table. `printed_front`: the front that was printed with it."""

    name: str
    axes: tuple[str, ...]
    measures: tuple[Measure, ...]
    cells: Mapping[Place, Cell]
    over: Place | None = None
    half: float | None = None
    printed_front: tuple[Place, ...] = ()


def read_study(run: RunDir, names: Sequence[str]) -> Study:
    """Read what the cells of a run's grid reached in the measures `names` (measures.py); a cell of a grid that has no
    value is kept, with the reason. Raises InputError where the run has no grid or nobody has measured so."""
    plan = run.read_plan()
    run.require_tasks()
    axes = axes_of(plan, run)
    measured, places = {}, {}
    for task, status in zip(plan.tasks, read_statuses(run), strict=True):
        measured[task.id] = find_measures(run.task(task.id), status)
        places[task.id] = tuple(flow(value) for value in task.cell.values())
    measures = tuple(named(name, list(measured.values()), run.path) for name in names)
    values: dict[Place, list[list[float]]] = {place: [] for place in places.values()}
    missing: dict[Place, list[str]] = {place: [] for place in places.values()}
    unfit: dict[Place, list[str]] = {place: [] for place in places.values()}
    timed = any(name in TIMES for name in names)
    for task in plan.tasks:
        found, place = measured[task.id], places[task.id]
        reasons = [found.why_not(name) for name in names if name not in found.values]
        if reasons:
            missing[place].append(f"seed={task.seed}: {reasons[0]}")
        else:
            values[place].append([found.values[name][0] for name in names])
            unfit[place] += [f"seed={task.seed}: {reason}" for reason in found.unfit if timed]
    size = len(measures)
    cells = {
        place: Cell(np.array(rows, dtype=float).reshape(-1, size), tuple(missing[place]), tuple(unfit[place]))
        for place, rows in values.items()
    }
    return Study(plan.name, axes, measures, cells)


def axes_of(plan: Plan, run: RunDir) -> tuple[str, ...]:
    """Return the keys of the run's grid. Raises InputError where it has none."""
    axes = tuple(plan.tasks[0].cell)
    if not axes:
        raise InputError(f"{run.path}: its job has no grid: there is one setting, and 'hpc_kit report' shows it")
    return axes


def datasets(run: RunDir) -> set[str]:
    """Return the sha256 of the data sets that a run's tasks work on."""
    return {found for task in run.read_plan().tasks if (found := getattr(task.work, "dataset_sha256", None))}


def find_cell(study: Study, text: str, where: str = "--normalise-to") -> Place:
    """Return the cell that `text` names by its values in the order of the axes, as in "4,4". Raises InputError, which
    says `where` it was named."""
    names = {"".join(",".join(place).split()): place for place in study.cells}
    wanted = "".join(text.split())
    if wanted not in names:
        cells = "; ".join([*list(names)[:MOST_NAMED], *(["…"] if len(names) > MOST_NAMED else [])])
        raise InputError(
            f"{where}: {study.name} has no cell {text!r}: give a value for each of"
            f" {', '.join(study.axes)}, as in {cells}"
        )
    return names[wanted]


def normalised(study: Study, place: Place) -> Study:
    """Return the study with all values over the mean of those of the cell `place`. Raises InputError where that has
    none, or one that is not above zero."""
    cell = study.cells[place]
    where = f"{study.name}: cannot be normalised to {label(place)}"
    if not len(cell.values):
        raise InputError(f"{where}: that cell has no value: {'; '.join(cell.missing)}")
    for measure, value in zip(study.measures, cell.values.mean(axis=0), strict=True):
        if not value > 0:
            raise InputError(f"{where}: its {measure.name} is {value:g}, and a ratio to that says nothing")
    return replace(study, over=place)


def estimates(study: Study, measure: int) -> dict[Place, Estimate]:
    """Return the mean and interval of each cell that has values, in the study's normalisation.

    Intervals suppose that the runs of a cell scatter normally: Student's t of the mean. Where all values are above
    zero it is that of the mean's logarithm, with the variance s^2 / (n m^2) (delta method), so that no interval of an
    error or a time reaches below zero. Over another cell: the logarithm of the ratio of means, with the variances of
    both and the degrees of freedom of Welch (1947, doi 10.2307/2332510). The cell that values are divided by is 1, by
    definition.
    """
    return {
        place: _ratio(study, place, measure) if study.over else _mean(cell.values[:, measure])
        for place, cell in study.cells.items()
        if len(cell.values)
    }


def _mean(values: np.ndarray) -> Estimate:
    mean, runs = float(values.mean()), len(values)
    if runs < 2:
        return Estimate(mean, None, None, runs)
    half = _errors_within(runs - 1) * float(values.std(ddof=1)) / math.sqrt(runs)
    if values.min() <= 0:
        return Estimate(mean, mean - half, mean + half, runs)
    factor = math.exp(half / mean)
    return Estimate(mean, mean / factor, mean * factor, runs)


def _ratio(study: Study, place: Place, measure: int) -> Estimate:
    values, over = (study.cells[cell].values[:, measure] for cell in (place, study.over))
    runs, ratio = len(values), float(values.mean() / over.mean())
    if place == study.over and runs > 1:
        return Estimate(1.0, 1.0, 1.0, runs)
    if min(runs, len(over)) < 2 or ratio <= 0:
        return Estimate(ratio, None, None, runs)
    parts = [float(v.var(ddof=1)) / len(v) / float(v.mean()) ** 2 for v in (values, over)]
    if not sum(parts):
        return Estimate(ratio, ratio, ratio, runs)
    freedom = welch_freedom(parts, (runs, len(over)))
    factor = math.exp(_errors_within(freedom) * math.sqrt(sum(parts)))
    return Estimate(ratio, ratio / factor, ratio * factor, runs)


def _errors_within(freedom: float) -> float:
    return quantile_of_t(0.5 + LEVEL / 2, freedom)  # standard errors that hold LEVEL


def costs(study: Study) -> dict[Place, tuple[float, ...]]:
    """Return the means of each cell that has values, in the study's normalisation, unrounded, so that less is better:
    a measure of which more is better with its sign turned."""
    found = [estimates(study, number) for number in range(len(study.measures))]
    return {
        place: tuple(m.sign * means[place].value for m, means in zip(study.measures, found, strict=True))
        for place in found[0]
    }


def samples(study: Study) -> dict[Place, np.ndarray]:
    """Return the values of each cell that has some, [runs, measures], so that less is better."""
    signs = np.array([measure.sign for measure in study.measures])
    return {place: cell.values * signs for place, cell in study.cells.items() if len(cell.values)}


def without_value(study: Study) -> dict[Place, str]:
    """Return the cells that have no value at all, each with the reason."""
    return {place: "; ".join(cell.missing) for place, cell in study.cells.items() if not len(cell.values)}


def label(place: Place) -> str:
    """Return a cell as it is named in tables and figures: "(4,4)"."""
    return f"({','.join(place)})"
