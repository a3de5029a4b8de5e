"""A rank other than 0 of `hpc_kit run`, where a launcher such as mpiexec has started that on several ranks: it starts
its process of each task when rank 0, the driver of the run, starts that task.

Not for: ranks that this package starts itself (local_ranks.py).
"""

import contextlib
import os
import signal
import subprocess
import time

from hpc_kit.plan import Plan
from hpc_kit.ranks import timeout_s
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.ledger import Ledger
from hpc_kit.runs.process import end_with_parent
from hpc_kit.sites.launch import task_command, task_environment
from hpc_kit.sites.local_ranks import FORWARDED, MOST_RESTARTS, WAIT_S
from hpc_kit.spec.errors import RankLost
from hpc_kit.spec.site import Site

POLL_S = 0.5


def follow(run: RunDir, plan: Plan, site: Site) -> None:
    """Take part in the tasks of `run` until its driver ends. Raises RankLost where no driver comes."""
    _await_driver(run, plan)
    begun: dict[str, int] = {}  # task -> attempt
    while run.lock.is_held():
        ledger = Ledger(run.ledger, [task.id for task in plan.tasks])
        for task in plan.tasks:
            entry = ledger.tasks[task.id]
            if entry.state in ("submitted", "started") and entry.attempt > begun.get(task.id, 0):
                begun[task.id] = entry.attempt
                argv = task_command(site, task, run.task(task.id), launched=True)
                environment = os.environ | task_environment(site, task.resources)
                restarts = MOST_RESTARTS if task.work.outlives_ranks else 0
                _take_part(run.task(task.id), entry.attempt, argv, environment, restarts)
        time.sleep(POLL_S)


def _await_driver(run: RunDir, plan: Plan) -> None:
    ids = [task.id for task in plan.tasks]
    until = time.monotonic() + timeout_s()
    while time.monotonic() < until:
        with contextlib.suppress(Exception):  # half of it is there
            if run.lock.is_held() and [task.id for task in run.read_plan().tasks] == ids:
                return
        time.sleep(POLL_S)
    raise RankLost(f"{run.path}: rank 0 did not make or take up this run within {timeout_s():.0f} s")


def _take_part(folder: TaskDir, attempt: int, argv: list[str], environment: dict[str, str], restarts: int) -> None:
    """Run this rank's process of one attempt to its end; one that is killed is started again so many times."""
    asked = False
    process: subprocess.Popen | None = None

    def forward(number: int, _) -> None:
        nonlocal asked
        asked = True
        if process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        with folder.log.open("ab") as log:
            for _ in range(restarts + 1):
                process = subprocess.Popen(
                    argv,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=end_with_parent,
                )
                if _wait(process, folder, attempt) >= 0 or asked or not _is_under_way(folder, attempt):
                    return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen, folder: TaskDir, attempt: int) -> int:
    """Return the exit code of a process, which ends soon after the attempt has."""
    until = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)
        if until is None and not _is_under_way(folder, attempt):
            until = time.monotonic() + WAIT_S
        if until is not None and time.monotonic() > until:
            process.kill()


def _is_under_way(folder: TaskDir, attempt: int) -> bool:
    run = folder.run
    entry = Ledger(run.ledger, [folder.path.name]).tasks[folder.path.name]
    return entry.state in ("submitted", "started") and entry.attempt == attempt and run.lock.is_held()
