"""What the commands bench table and bench pareto do between their arguments and what they print."""

from collections.abc import Sequence
from pathlib import Path

from hpc_kit.bench.configurations import require_distinct
from hpc_kit.bench.measures import NAMES, Measure, find_measures
from hpc_kit.bench.published import published_studies, read_published
from hpc_kit.bench.studies import Study, datasets, find_cell, normalised, read_study
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.spec.errors import InputError

USUAL = ("test_mae", "epoch_s")
Studies = tuple[list[Study], list[Study]]  # our own, published ones


def gather(runs: Sequence[Path], measures: Sequence[str], over: str | None, published: str | None) -> Studies:
    """Return the studies of `runs` and those of a published table, all in the same measures and normalised alike.

    over: the cell that is 1, by its values as in "4,4"; where none is named, that of the published table. Raises
    InputError where studies have other axes, other data, or not the cell to normalise to.
    """
    table = read_published(published) if published else None
    require_distinct([RunDir(path) for path in runs])
    ours = [read_study(RunDir(path), measures) for path in runs]
    if len({study.name for study in ours}) < len(ours):
        ours = [Study(**{**vars(study), "name": path.name}) for study, path in zip(ours, runs, strict=True)]
    if not ours and table is None:
        raise InputError("give a RUN, or --published with a table to look at alone")
    _same_work(ours, runs)
    if table is None:
        theirs = []
    elif ours:
        theirs = published_studies(table, ours[0].axes, ours[0].measures)
    else:
        theirs = published_studies(
            table, table.axes, tuple(Measure(name, NAMES.get(name, name)) for name in measures)
        )
    if over is None and theirs and theirs[0].over is not None:
        over = ",".join(theirs[0].over)
    if over is not None:
        ours = [normalised(study, find_cell(study, over)) for study in ours]
        theirs = [normalised(study, find_cell(study, over)) for study in theirs]
    return ours, theirs


def usual_measures(runs: Sequence[Path], published: str | None = None) -> list[str]:
    """Return what a table shows where nothing is named: error and time, as far as the first run's tasks have them,
    or, without a run, the published table."""
    if not runs:
        columns = read_published(published).columns if published else USUAL
        return [name for name in USUAL if name in columns] or list(USUAL)
    run = RunDir(runs[0])
    tasks = zip(run.read_plan().tasks, read_statuses(run), strict=True)
    known = {name for task, status in tasks for name in find_measures(run.task(task.id), status).values}
    return [name for name in USUAL if name in known] or list(USUAL)


def require_values(studies: Sequence[Study]) -> None:
    """Raise InputError where a study has no cell with values."""
    for study in studies:
        if not any(len(cell.values) for cell in study.cells.values()):
            reasons = [reason for cell in study.cells.values() for reason in cell.missing]
            raise InputError(f"{study.name}: no cell has a value: {reasons[0] if reasons else 'it is empty'}")


def _same_work(ours: list[Study], runs: Sequence[Path]) -> None:
    for study, path in zip(ours[1:], runs[1:], strict=True):
        if study.axes != ours[0].axes:
            raise InputError(f"{path}: varies {', '.join(study.axes)}, and {runs[0]} {', '.join(ours[0].axes)}")
        if [m.unit for m in study.measures] != [m.unit for m in ours[0].measures]:
            raise InputError(f"{path}: measures in other units than {runs[0]}")
        here, there = datasets(RunDir(path)), datasets(RunDir(runs[0]))
        if here != there:
            names = [", ".join(sorted(one[:12] for one in found)) for found in (here, there)]
            raise InputError(
                f"{path}: works on other data (sha256 {names[0]}) than {runs[0]} ({names[1]}): their numbers are not"
                " of one study; give one RUN at a time"
            )
