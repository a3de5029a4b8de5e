"""Which best.pt files a user means by a run, a task or a file. The login side too: nothing but records is read."""

from dataclasses import dataclass, field
from pathlib import Path

from hpc_kit.files import file_sha256
from hpc_kit.runs.layout import RunDir, TaskDir, task_directory
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.train import Weights


@dataclass
class Found:
    """The files of one model, or of an ensemble of it; `notes` are what a user should know of them."""

    paths: list[Path]
    notes: list[str] = field(default_factory=list)


def find_weights(path: Path) -> Found:
    """Return the best.pt at `path`, that of a task directory, or those of a run's seeds.

    Of a run whose tasks are not all done, those that are make the ensemble, and a note says so. Raises InputError
    where there is nothing to predict with, and where a run holds models that differ in more than their seed.
    """
    if path.is_file():
        return Found([path])
    if not path.exists():
        raise InputError(f"{path}: no such run, task or best.pt")
    if RunDir(path).plan_file.exists():
        return _of_run(RunDir(path))
    task = task_directory(path)
    if not task.task_file.exists():
        raise InputError(f"{path}: is neither a run nor a task directory: it holds no plan.json and no task.yaml")
    _check_kind(path, task.read_task().kind)
    if not task.best.exists():
        raise InputError(f"{path}: holds no best.pt: its training has not validated once; see its log.txt")
    if not task.is_done():
        return Found([task.best], [f"{path}: its training has not ended; these are the best weights so far"])
    task.verify(task.best)
    return Found([task.best])


def find_models(path: Path) -> list[tuple[str, Found]]:
    """Return every model at `path` with what the grid says of it ("" without a grid): of a run whose grid has several
    models each is one, an ensemble of its seeds. Raises InputError like find_weights."""
    if path.is_file() or not RunDir(path).plan_file.exists():
        return [("", find_weights(path))]
    run = RunDir(path)
    return [(cell, _done(run, cell, tasks)) for cell, tasks in _cells(run).items()]


def pinned(paths: list[Path]) -> list[Weights]:
    """Return files with their sha256. Raises InputError where one cannot be read."""
    try:
        return [Weights(path=str(path), sha256=file_sha256(path)) for path in paths]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _of_run(run: RunDir) -> Found:
    cells = _cells(run)
    if len(cells) > 1:
        some = ", ".join([*list(cells)[:3], *(["..."] if len(cells) > 3 else [])])
        raise InputError(
            f"{run.path}: holds {len(cells)} different models ({some}); name one task directory of its tasks/"
        )
    ((cell, tasks),) = cells.items()
    return _done(run, cell, tasks)


def _cells(run: RunDir) -> dict[str, list[TaskDir]]:
    """Return the tasks of a run's seeds by what the grid says of them."""
    plan = run.read_plan()
    _check_kind(run.path, plan.kind)
    cells: dict[str, list[TaskDir]] = {}
    for task in plan.tasks:
        cell = ", ".join(f"{key}={value}" for key, value in task.cell.items())
        cells.setdefault(cell, []).append(run.task(task.id))
    return cells


def _done(run: RunDir, cell: str, tasks: list[TaskDir]) -> Found:
    done = [task for task in tasks if task.is_done()]
    where = f"{run.path}{f' ({cell})' if cell else ''}"
    if not done:
        raise InputError(f"{where}: none of its {len(tasks)} tasks is done; 'hpc_kit status {run.path}' says more")
    notes = []
    if len(done) < len(tasks):
        notes.append(f"{where}: {len(done)} of its {len(tasks)} tasks are done, and these make the ensemble")
    for task in done:
        task.verify(task.best)
    return Found([task.best for task in done], notes)


def _check_kind(path: Path, kind: str) -> None:
    if kind != "train":
        raise InputError(f"{path}: is of kind {kind!r}, which trains no model; name one of kind 'train'")
