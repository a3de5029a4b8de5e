"""The state of every task of a run, from files alone."""

from dataclasses import asdict, dataclass
from typing import Any

from hpc_kit.files import read_lines
from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.ledger import ENDS, Ledger


@dataclass
class TaskStatus:
    """One task as the ledger and its records tell it.

    `state` is the ledger's; "interrupted" where the ledger has it under way and no driver is at work. `ended`: no
    other attempt follows by itself. `val_mae` is the last epoch's, in `unit`; `wall_s` the wall times of all epochs
    so far. `hint` is what the user may do, `before` how the attempt before this one ended.
    """

    id: str
    label: str
    state: str
    ended: bool
    attempt: int
    epoch: int
    epochs: int
    val_mae: float | None
    unit: str
    wall_s: list[float]
    reason: str
    hint: str
    before: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Statuses:
    """The states of all tasks of a run. Asked again, only what has changed since is read again."""

    def __init__(self, run: RunDir, plan: Plan, ledger: Ledger, driven: bool = True):
        self._run, self._plan, self._ledger, self._driven = run, plan, ledger, driven
        self._known: dict[str, tuple[tuple, TaskStatus]] = {}

    def all(self) -> list[TaskStatus]:
        """Return the state of every task, in the plan's order."""
        return [self._status(task) for task in self._plan.tasks]

    def _status(self, task: Task) -> TaskStatus:
        entry = self._ledger.tasks[task.id]
        version = (entry.state, entry.attempt, entry.again, self._size_of_epochs(task.id, entry))
        known = self._known.get(task.id)
        if known is None or known[0] != version:
            known = (version, _read(self._run, task, self._ledger, self._driven))
            self._known[task.id] = known
        return known[1]

    def _size_of_epochs(self, task_id: str, entry) -> int:
        if entry.state == "planned" or (entry.ended and task_id in self._known):
            return 0 if entry.state == "planned" else self._known[task_id][0][3]
        try:
            return self._run.task(task_id).epochs.stat().st_size
        except FileNotFoundError:
            return 0


def read_statuses(run: RunDir) -> list[TaskStatus]:
    """Return the state of every task of a run that this process does not drive. Raises InputError."""
    plan = run.read_plan()
    ledger = Ledger(run.ledger, [task.id for task in plan.tasks])
    return Statuses(run, plan, ledger, driven=run.lock.is_held()).all()


def _read(run: RunDir, task: Task, ledger: Ledger, driven: bool) -> TaskStatus:
    folder, entry = run.task(task.id), ledger.tasks[task.id]
    state, reason, hint, ended = entry.state, entry.reason, entry.hint, entry.ended
    if not ended and folder.is_done():
        state, reason, hint, ended = "done", "", "", True
    elif state in ("submitted", "started") and not driven:
        state, reason = "interrupted", "its driver is gone"
        hint = "'hpc_kit resume' goes on from its last epoch"
    elif state in ENDS and not ended and not driven:
        hint = "'hpc_kit resume' goes on"
    epochs = read_lines(folder.epochs) if entry.attempt else []
    return TaskStatus(
        id=task.id,
        label=task.label,
        state=state,
        ended=ended,
        attempt=entry.attempt,
        epoch=len(epochs),
        epochs=task.train.epochs if task.train else 0,
        val_mae=epochs[-1]["val_mae"] if epochs else None,
        unit=task.unit,
        wall_s=[line["wall_s"] for line in epochs if line["wall_s"] is not None],
        reason=reason,
        hint=hint,
        before=entry.before,
    )
