"""The driver: takes a run's unfinished tasks through Parsl (or one after the other, in the foreground), keeps
the ledger, and leaves nothing running behind.

Not for: what a task does (task.py) or how results look (report/).
"""

import atexit
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psutil

from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.ledger import Ledger
from hpc_kit.runs.process import GRACE_S, end_session, is_alive, supervise
from hpc_kit.runs.status import TaskStatus, task_statuses
from hpc_kit.sites.launch import task_command, task_environment
from hpc_kit.spec.errors import PREEMPTED, InputError
from hpc_kit.spec.site import Site

POLL_S = 0.5
RELEASE_S = 5.0
IDLE_ATTEMPTS = 2  # a task that is preempted so often in a row without getting further fails
Show = Callable[[list[TaskStatus]], None]


def drive(run: RunDir, plan: Plan, site: Site, show: Show, parsl: bool = True) -> list[TaskStatus]:
    """Run every task of `run` that is not done and return the state of all.

    `show` is called with all states about twice a second. A preempted task is started again. On Ctrl-C, SIGTERM,
    SIGHUP or a cancel request the running tasks are ended and the rest is not started. Raises InputError where
    another driver has this run.
    """
    lock = run.lock
    if not lock.acquire():
        who = lock.holder()
        raise InputError(
            f"{run.path}: is being driven already, by process {who.get('pid')} on {who.get('host')};"
            " 'hpc_kit status' shows it, 'hpc_kit cancel' ends it"
        )
    try:
        ledger = _open_ledger(run, plan)
        todo = [task for task in plan.tasks if ledger.tasks[task.id].state != "done"]
        if todo:
            with _cancel_on_signals(run), _ParslPool(run, plan, site) if parsl else _OwnPool() as pool:
                me = (os.getpid(), psutil.Process().create_time())

                def start(task: Task) -> Future:
                    folder = run.task(task.id).path
                    command = task_command(folder, task.resources)
                    environment = task_environment(site, task.resources)
                    return pool.submit(command, environment, str(folder), ledger.submit(task.id), me)

                _follow(run, plan, ledger, todo, start, pool.check, show)
        states = task_statuses(run, plan, ledger)
        show(states)
        return states
    finally:
        lock.release()


def request_cancel(run: RunDir) -> bool:
    """Ask the driver of `run` to end; return False where none is at work."""
    if not run.lock.is_held():
        return False
    run.cancel_request.touch()
    return True


def _open_ledger(run: RunDir, plan: Plan) -> Ledger:
    """Bring the ledger in step with what an earlier driver left: finished tasks, and processes it left running."""
    run.cancel_request.unlink(missing_ok=True)
    ids = [task.id for task in plan.tasks]
    Ledger.repair(run.ledger)
    ledger = Ledger(run.ledger, ids)
    for task_id in ids:
        folder, entry = run.task(task_id), ledger.tasks[task_id]
        if entry.state == "done":
            continue
        if folder.is_done():
            if entry.state != "submitted" and entry.state != "started":
                ledger.submit(task_id)
            ledger.end(task_id, "done", "done.json was there when the run was taken up again", 0)
            continue
        _end_leftover(folder)
        if entry.state in ("submitted", "started"):
            ledger.end(task_id, "lost", "its driver died before it ended")
    return ledger


def _end_leftover(folder: TaskDir) -> None:
    """End a process that still works in `folder` although its driver is gone."""
    if folder.lock.is_held():
        holder = folder.lock.holder()
        if holder and is_alive(holder["pid"], holder["born"]):
            with contextlib.suppress(ProcessLookupError):
                leader = os.getsid(holder["pid"])
                if leader == folder.leader():  # not a task that somebody runs by hand, in a session of their own
                    end_session(leader)
        deadline = time.monotonic() + RELEASE_S
        while folder.lock.is_held():
            if time.monotonic() > deadline:
                raise InputError(
                    f"{folder.path}: process {holder.get('pid')} on {holder.get('host')} still works here; end it"
                )
            time.sleep(0.1)


def _follow(
    run: RunDir,
    plan: Plan,
    ledger: Ledger,
    todo: list[Task],
    start: Callable[[Task], Future],
    check: Callable[[], None],
    show: Show,
) -> None:
    """Start tasks, write the ledger as they start and end, start those preempted again, until all have ended."""
    tasks = {task.id: task for task in todo}
    futures: dict[str, Future] = {}
    reached: dict[str, tuple] = {}
    idle: Counter[str] = Counter()
    waiting, give_up = list(tasks), None
    while futures or waiting:
        check()
        cancelled = run.cancel_request.exists()
        if cancelled and give_up is None:
            give_up = time.monotonic() + GRACE_S + 4 * RELEASE_S
        for task_id in waiting:
            if cancelled and ledger.tasks[task_id].state == "preempted":
                ledger.end(task_id, "cancelled", "on request")
                continue
            reached[task_id] = run.task(task_id).reached()
            futures[task_id] = start(tasks[task_id])
        waiting = []
        for task_id, future in list(futures.items()):
            entry = ledger.tasks[task_id]
            if entry.state == "submitted" and run.task(task_id).started_attempt() == entry.attempt:
                ledger.start(task_id)
            if future.done():
                del futures[task_id]
                _record_end(run.task(task_id), ledger, task_id, future)
                if entry.state == "preempted":
                    idle[task_id] = idle[task_id] + 1 if run.task(task_id).reached() == reached[task_id] else 0
                    if idle[task_id] < IDLE_ATTEMPTS:
                        waiting.append(task_id)
                    else:
                        reason = f"preempted {IDLE_ATTEMPTS} times in a row without getting further: {entry.reason}"
                        ledger.end(task_id, "failed", reason, entry.exit_code)
            elif give_up is not None and time.monotonic() > give_up:
                del futures[task_id]
                ledger.end(task_id, "cancelled", "its worker did not answer the request to cancel")
        show(task_statuses(run, plan, ledger))
        if futures or waiting:
            time.sleep(POLL_S)


def _record_end(folder: TaskDir, ledger: Ledger, task_id: str, future: Future) -> None:
    """Take a task's outcome from its own marker and exit code, never from the executor's word alone."""
    if future.exception() is not None:
        ledger.end(task_id, "lost", f"its worker was lost: {future.exception()}")
        return
    code, ended = future.result()["exit_code"], future.result()["ended"]
    last = next(iter(folder.log_tail(1)), "")
    if folder.is_done():
        ledger.end(task_id, "done", exit_code=code)
    elif ended == "cancelled":
        ledger.end(task_id, "cancelled", "on request", code)
    elif code == PREEMPTED:
        ledger.end(task_id, "preempted", last, code)
    elif code is not None and code < 0:
        ledger.end(task_id, "failed", f"killed by {signal.Signals(-code).name}: {last}", code)
    else:
        ledger.end(task_id, "failed", last or f"exit code {code} and an empty log", code)


@contextlib.contextmanager
def _cancel_on_signals(run: RunDir) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, lambda *_: run.cancel_request.touch()) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _OwnPool:
    """One task after the other, in this process's own threads, without Parsl."""

    def __enter__(self) -> "_OwnPool":
        self._pool = ThreadPoolExecutor(1)
        return self

    def submit(self, *arguments) -> Future:
        return self._pool.submit(supervise, *arguments)

    def check(self) -> None:
        """Nothing can be lost here."""

    def __exit__(self, *_) -> None:
        self._pool.shutdown()


class _ParslPool:
    """Parsl's executor for a site, closed with all its processes when the block ends."""

    def __init__(self, run: RunDir, plan: Plan, site: Site):
        from hpc_kit.sites.parsl_config import parsl_config  # Parsl takes half a second to load

        self._config = parsl_config(site, plan.tasks[0].resources, run.parsl)
        self._executor = self._config.executors[0]

    def __enter__(self) -> "_ParslPool":
        import parsl

        self._kernel = parsl.load(self._config)
        self._app = parsl.python_app(supervise, data_flow_kernel=self._kernel)
        return self

    def submit(self, *arguments) -> Future:
        return self._app(*arguments)

    def check(self) -> None:
        """Fail all tasks if Parsl's interchange has died; Parsl itself waits for it for ever."""
        if self._executor.interchange_proc.poll() is not None and not self._executor.bad_state_is_set:
            self._executor.set_bad_state_and_fail_all(RuntimeError("Parsl's interchange died"))

    def __exit__(self, *_) -> None:
        import parsl

        if self._executor.bad_state_is_set:  # cleanup() would wait for the interchange for ever
            atexit.unregister(self._kernel.atexit_cleanup)
            self._executor.provider.cancel(list(self._executor.provider.resources))
        else:
            self._kernel.cleanup()
        parsl.clear()
