"""Prints the logs of a run's tasks, once or as they grow."""

import time

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.errors import InputError, allowed


def print_logs(run: RunDir, wanted: str, follow: bool) -> None:
    """Print the log of every task whose id or label contains `wanted`; with `follow` as long as a driver is at work.

    Raises InputError where no task is called so, or the folders of those that are called so are gone.
    """
    plan = run.read_plan()
    run.require_tasks()
    tasks = [task for task in plan.tasks if wanted in task.id or wanted in task.label]
    if not tasks:
        names = allowed(wanted, [task.label for task in plan.tasks])
        raise InputError(f"{run.path}: no task is called {wanted!r}; {names}")
    gone = [task.id for task in tasks if not run.task(task.id).path.is_dir()]
    if gone:
        raise InputError(
            f"{run.task(gone[0]).path}: is gone, and its log with it ({len(gone)} of {len(tasks)} tasks)"
        )
    offsets = {task.id: 0 for task in tasks}
    last = ""
    try:
        while True:
            driven = run.lock.is_held()
            for task in tasks:
                last = _print_new(run, task, offsets, last, heads=len(tasks) > 1)
            if not (follow and driven):
                return
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


def _print_new(run: RunDir, task: Task, offsets: dict[str, int], last: str, heads: bool) -> str:
    """Print what the task's log gained since its offset; return the id of the task printed last."""
    path = run.task(task.id).log
    try:
        with path.open("rb") as file:
            file.seek(offsets[task.id])
            text = file.read()
    except FileNotFoundError:
        return last
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not text:
        return last
    offsets[task.id] += len(text)
    if heads and last != task.id:
        print(f"==> {task.id} ({task.label}) <==")
    print(text.decode(errors="replace"), end="", flush=True)
    return task.id
