"""The state of every task of a run, from files alone."""

from dataclasses import asdict, dataclass
from typing import Any

from hpc_kit.files import read_lines
from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.ledger import TERMINAL, Ledger


@dataclass
class TaskStatus:
    """One task as the ledger and its records tell it.

    `state` is the ledger's ("preempted": to be started again); "interrupted" where the ledger has it under way and no
    driver is at work.
    `val_mae` is the last epoch's, in `unit`; `wall_s` the wall times of all epochs so far.
    """

    id: str
    label: str
    state: str
    attempt: int
    epoch: int
    epochs: int
    val_mae: float | None
    unit: str
    wall_s: list[float]
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def task_statuses(run: RunDir, plan: Plan, ledger: Ledger, driven: bool = True) -> list[TaskStatus]:
    """Return the state of every task, in the plan's order; `driven` tells whether a driver is at work."""
    return [_status(run, task, ledger, driven) for task in plan.tasks]


def read_statuses(run: RunDir) -> list[TaskStatus]:
    """Return the state of every task of a run that this process does not drive. Raises InputError."""
    plan = run.read_plan()
    ledger = Ledger(run.ledger, [task.id for task in plan.tasks])
    return task_statuses(run, plan, ledger, driven=run.lock.is_held())


def _status(run: RunDir, task: Task, ledger: Ledger, driven: bool) -> TaskStatus:
    folder, entry = run.task(task.id), ledger.tasks[task.id]
    state, reason = entry.state, entry.reason
    if state not in TERMINAL and folder.is_done():
        state, reason = "done", ""
    elif state in ("submitted", "started") and not driven:
        state, reason = "interrupted", "its driver is gone; 'hpc_kit resume' goes on from its last epoch"
    epochs = read_lines(folder.epochs)
    return TaskStatus(
        id=task.id,
        label=task.label,
        state=state,
        attempt=entry.attempt,
        epoch=len(epochs),
        epochs=task.train.epochs if task.train else 0,
        val_mae=epochs[-1]["val_mae"] if epochs else None,
        unit=task.unit,
        wall_s=[line["wall_s"] for line in epochs if line["wall_s"] is not None],
        reason=reason,
    )
