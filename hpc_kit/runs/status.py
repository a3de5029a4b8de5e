"""The state of every task of a run, from files alone."""

from dataclasses import asdict, dataclass
from typing import Any

from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.ledger import ENDS, Entry, Ledger
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.text import in_unit


@dataclass
class TaskStatus:
    """One task as the ledger and its records tell it.

    `state` is the ledger's; "interrupted" where the ledger has it under way and no driver is at work. `ended`: no
    other attempt follows by itself. `done` of `total` `unit` ("epochs") are behind it, and `score` (name, value,
    unit) says how good its work is so far. `hint` is what the user may do, `before` how the attempt before this one
    ended.
    """

    id: str
    label: str
    state: str
    ended: bool
    attempt: int
    done: int
    total: int
    unit: str
    score: dict[str, Any] | None
    reason: str
    hint: str
    before: str

    @property
    def said(self) -> str:
        """The score in words, as in "val MAE 12.1 meV"; "" where there is none."""
        if self.score is None or self.score["value"] is None:
            return ""
        return f"{self.score['name']} {in_unit(self.score['value'], self.score['unit'])}"

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
        version = (entry.state, entry.attempt, entry.again, self._last_progress(task.id, entry))
        known = self._known.get(task.id)
        if known is None or known[0] != version:
            known = (version, _read(self._run, task, self._ledger, self._driven))
            self._known[task.id] = known
        return known[1]

    def _last_progress(self, task_id: str, entry: Entry) -> int:
        """Return when the task last told its progress, without a look at a file if it has not begun or has ended."""
        if entry.state == "planned" or (entry.ended and task_id in self._known):
            return 0 if entry.state == "planned" else self._known[task_id][0][3]
        try:
            return self._run.task(task_id).progress.stat().st_mtime_ns
        except OSError:
            return 0


def read_statuses(run: RunDir) -> list[TaskStatus]:
    """Return the state of every task of a run that this process does not drive. Raises InputError."""
    plan = run.read_plan()
    ledger = Ledger(run.ledger, [task.id for task in plan.tasks])
    return Statuses(run, plan, ledger, driven=run.lock.is_held()).all()


def states_or_fault(run: RunDir) -> list[TaskStatus] | str:
    """Return the states of a run's tasks, or what is wrong with the run: one among many hides none of the others."""
    try:
        return read_statuses(run)
    except (InputError, WorkError) as error:
        return str(error)


def _read(run: RunDir, task: Task, ledger: Ledger, driven: bool) -> TaskStatus:
    folder, entry = run.task(task.id), ledger.tasks[task.id]
    state, reason, hint, ended = entry.state, entry.reason, entry.hint, entry.ended
    missing = folder.why_not_done() if entry.state == "done" or not ended else ""
    if entry.state == "done" and missing:
        state, reason, hint = "lost", f"it was done, and now {missing}", "'hpc_kit resume' runs it again"
    elif not ended and not missing:
        state, reason, hint, ended = "done", "", "", True
    elif state in ("submitted", "started") and not driven:
        state, reason = "interrupted", "its driver is gone"
        hint = "'hpc_kit resume' goes on from its last checkpoint"
    elif state in ENDS and not ended and not driven:
        hint = "'hpc_kit resume' goes on"
    try:
        progress = folder.read_progress() if entry.attempt else {}
    except (InputError, WorkError) as error:
        progress, reason = {}, "; ".join(filter(None, (reason, str(error))))
    total, unit = task.work.amount()
    return TaskStatus(
        id=task.id,
        label=task.label,
        state=state,
        ended=ended,
        attempt=entry.attempt,
        done=progress.get("done", 0),
        total=progress.get("total", total),
        unit=progress.get("unit", unit),
        score=progress.get("score"),
        reason=reason,
        hint=hint,
        before=entry.before,
    )
