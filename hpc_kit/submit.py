"""The driver: takes a run's unfinished tasks to workers, keeps the ledger, starts again what outside causes ended,
and leaves nothing running behind.

Not for: what a task does (task.py), where attempts run (sites/workers.py) or what their ends mean (sites/outcome.py).
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from typing import Any

from hpc_kit.plan import Plan, Task
from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.ledger import Entry, Ledger
from hpc_kit.runs.process import GRACE_S, end_session, is_alive
from hpc_kit.runs.status import Statuses, TaskStatus
from hpc_kit.sites.outcome import AGAIN, End, judge, needs_record
from hpc_kit.sites.policy import BlockPlan, plan_blocks, problems, slots
from hpc_kit.sites.scheduler import ENDED, SchedulerError
from hpc_kit.sites.schedulers import scheduler_of
from hpc_kit.sites.workers import OwnThread, ThroughParsl, end_leftovers
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.site import Site

POLL_S = 0.5
BEAT_S = 10.0
RELEASE_S = 5.0
RECORD_WITHIN_S = 60.0  # how long a block's accounting may lag behind the end of an attempt
IDLE_ATTEMPTS = 2  # a task that outside causes end so often in a row without getting further fails
FALSE_STARTS = 10
DETACHED_WITHIN_S = 60.0
Show = Callable[[list[TaskStatus]], None]


def drive(run: RunDir, plan: Plan, site: Site, show: Show, parsl: bool = True) -> list[TaskStatus]:
    """Run every task of `run` that is not done and return the state of all.

    `show` is called with all states about twice a second. On Ctrl-C, SIGTERM, SIGHUP or a cancel request the running
    tasks are ended and the rest is not started. Raises InputError where another driver has this run or the site takes
    no block, WorkError where blocks do no work or the disk is full.
    """
    lock = run.lock
    if not lock.acquire():
        who = lock.holder()
        raise InputError(
            f"{run.path}: is being driven already, by process {who.get('pid')} on {who.get('host')};"
            " 'hpc_kit status' shows it, 'hpc_kit cancel' ends it"
        )
    try:
        if parsl:
            _end_blocks(run, site)
        ledger = _open_ledger(run, plan)
        todo = [task for task in plan.tasks if ledger.tasks[task.id].state != "done"]
        statuses = Statuses(run, plan, ledger)
        if todo:
            pool = ThroughParsl(run, plan, site, len(todo)) if parsl else OwnThread()
            with _cancel_on_signals(run), _Drive(run, ledger, pool, todo) as drive, pool:
                drive.follow(lock.beat, lambda: show(statuses.all()))
        states = statuses.all()
        show(states)
        return states
    except OSError as error:
        raise WorkError(
            f"{run.path}: {error.strerror or error}; 'hpc_kit resume' goes on once that is mended"
        ) from None
    finally:
        lock.release()


def prepare(site: Site, plan: Plan) -> tuple[BlockPlan | None, list[str]]:
    """Return the blocks that a plan's tasks need and every limit of the site that they violate; None: no blocks.

    Raises InputError where not even one task fits.
    """
    resources = plan.tasks[0].resources
    if site.scheduler == "local":
        slots(site, resources)
        return None, []
    blocks = plan_blocks(site, resources, len(plan.tasks))
    return blocks, problems(site, resources, blocks)


def ask_blocks(run: RunDir) -> list[dict[str, Any]]:
    """Ask the scheduler about the blocks of a run that may still be in its queue, in one call.

    Raises WorkError where it does not answer.
    """
    scheduler = scheduler_of(run.read_site(), run.block_scripts)
    blocks = [block for block in BlockLog(run).blocks.values() if block.open] if scheduler else []
    try:
        records = scheduler.records([block.job for block in blocks if block.job]) if blocks else {}
    except SchedulerError as error:
        raise WorkError(f"the scheduler does not answer: {error}") from None
    nothing = {"state": "unknown", "why": "", "evidence": "the scheduler does not know it"}
    found = [asdict(records[b.job]) if b.job in records else nothing for b in blocks]
    return [told | {"name": block.name, "job": block.job} for block, told in zip(blocks, found, strict=True)]


def detach(run: RunDir) -> tuple[int, str]:
    """Start a driver of `run` in a session of its own, which outlives this terminal; return its pid and host.

    Raises InputError or WorkError with its words where it ends at once.
    """
    with run.driver_log.open("ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "hpc_kit", "resume", str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + DETACHED_WITHIN_S
    while run.lock.holder().get("pid") != driver.pid and time.monotonic() < deadline:
        if (code := driver.poll()) is not None:
            words = run.driver_log.read_text(errors="replace").strip()
            if code:
                raise (InputError if code == 2 else WorkError)(f"the driver ended at once:\n{words}")
            break
        time.sleep(0.1)
    return driver.pid, os.uname().nodename


def request_cancel(run: RunDir) -> bool:
    """Ask the driver of `run` to end; return False where none is at work."""
    if not run.lock.is_held():
        return False
    run.cancel_request.touch()
    return True


def cancel_blocks(run: RunDir, site: Site) -> list[str]:
    """End the blocks that a driver which is gone has left in the queue; return their ids. Raises WorkError."""
    lock = run.lock
    if not lock.acquire():
        raise InputError(f"{run.path}: a driver has just taken it up")
    try:
        return _end_blocks(run, site)
    finally:
        lock.release()


def _end_blocks(run: RunDir, site: Site) -> list[str]:
    """End what is in the queue of this run, by the scheduler's word and by blocks.jsonl; the run's lock is held."""
    scheduler = scheduler_of(site, run.block_scripts)
    if scheduler is None or not run.blocks.exists():
        return []
    log = BlockLog(run)
    log.repair()
    return end_leftovers(site, scheduler, run, log)


def _open_ledger(run: RunDir, plan: Plan) -> Ledger:
    """Bring the ledger in step with what an earlier driver left: finished tasks, and processes it left running."""
    run.cancel_request.unlink(missing_ok=True)
    ids = [task.id for task in plan.tasks]
    Ledger.repair(run.ledger)
    ledger = Ledger(run.ledger, ids)
    for task_id in ids:
        folder, entry = run.task(task_id), ledger.tasks[task_id]
        if entry.state == "done" or (entry.state == "planned" and not folder.is_done()):
            continue
        if folder.is_done():
            if entry.state not in ("submitted", "started"):
                ledger.submit([task_id])
            ledger.end(task_id, "done", "done.json was there when the run was taken up again", 0)
            continue
        _end_leftover(folder)
        if entry.state in ("submitted", "started"):
            lost = "its driver died before it ended"
            end = judge(False, _marker(folder, entry), _last_line(folder), None, lost, "")
            ledger.end(task_id, end.state, end.reason, end.exit_code)
    return ledger


def _marker(folder: TaskDir, entry: Entry) -> dict[str, Any]:
    """Return exit.json of the task's last attempt, {} where that one left none."""
    marker = folder.read_exit()
    return marker if marker.get("attempt") == entry.attempt else {}


def _last_line(folder: TaskDir) -> str:
    return next(iter(folder.log_tail(1)), "")


def _end_leftover(folder: TaskDir) -> None:
    """End a process that still works in `folder` although its driver is gone."""
    if folder.lock.is_held():
        holder = folder.lock.holder()
        if holder and is_alive(holder["pid"], holder["born"]):
            with contextlib.suppress(ProcessLookupError):
                leader = os.getsid(holder["pid"])
                # not a task that somebody runs by hand, in a session of their own
                if leader == folder.read_process().get("pid"):
                    end_session(leader)
        deadline = time.monotonic() + RELEASE_S
        while folder.lock.is_held():
            if time.monotonic() > deadline:
                raise InputError(
                    f"{folder.path}: process {holder.get('pid')} on {holder.get('host')} still works here; end it"
                )
            time.sleep(0.1)


class _Drive:
    """The tasks of one drive: those that wait, those under way, and those that have ended and nobody knows yet
    why."""

    def __init__(self, run: RunDir, ledger: Ledger, pool: OwnThread | ThroughParsl, todo: list[Task]):
        self._run, self._ledger, self._pool = run, ledger, pool
        self._tasks = {task.id: task for task in todo}
        self._waiting = deque(self._tasks)
        self._futures: dict[Future, str] = {}
        self._jobs: dict[str, str | None] = {}  # the block each attempt runs in
        self._open: dict[str, tuple[str, float]] = {}  # task -> what was noticed, until when to wait for the cause
        self._reached: dict[str, tuple] = {}
        self._starts: Counter[str] = Counter()  # of this drive
        self._false_starts: Counter[str] = Counter()  # times that a worker took it and did not start it
        self._idle: Counter[str] = Counter()  # attempts in a row that got no further
        self._give_up: float | None = None

    def __enter__(self) -> "_Drive":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *_) -> None:
        """Write down what could not be followed to its end."""
        for task_id in [*self._futures.values(), *self._open]:
            done = self._run.task(task_id).is_done()
            state, reason = ("done", "") if done else ("lost", f"its driver gave up: {error}")
            with contextlib.suppress(OSError):  # a full disk has been reported already
                self._ledger.end(task_id, state, reason)

    def follow(self, beat: Callable[[], None], show: Callable[[], None]) -> None:
        """Start tasks, write the ledger as they start and end, start again those that outside causes ended."""
        next_beat = next_show = 0.0
        while self._futures or self._waiting or self._open:
            now = time.monotonic()
            if now >= next_beat:
                beat()
                next_beat = now + BEAT_S
            cancelled = self._run.cancel_request.exists()
            if cancelled:
                self._drop_waiting()
            else:
                self._pool.tend(len(self._futures) + len(self._waiting), len(self._open))
                self._fill()
            self._collect(cancelled)
            if cancelled:
                self._drop_not_started()
            if now >= next_show:
                self._note_starts()
                show()
                next_show = time.monotonic() + POLL_S
            if self._futures or self._open:
                wait(list(self._futures), POLL_S, FIRST_COMPLETED) if self._futures else time.sleep(POLL_S)

    def _fill(self) -> None:
        """Hand out as many waiting tasks as the workers need to stay busy."""
        fresh = []
        while self._waiting and len(self._futures) + len(fresh) < self._pool.window:
            fresh.append(self._waiting.popleft())
        self._ledger.submit(task_id for task_id in fresh if self._ledger.tasks[task_id].state != "submitted")
        for task_id in fresh:
            folder = self._run.task(task_id)
            self._reached[task_id] = folder.reached()
            attempt = self._ledger.tasks[task_id].attempt
            self._futures[self._pool.submit(str(folder.path), attempt)] = task_id

    def _drop_waiting(self) -> None:
        """Start nothing more: a task that waits for its next attempt has had its last."""
        for task_id in self._waiting:
            if self._ledger.tasks[task_id].state in (*AGAIN, "submitted"):
                self._ledger.end(task_id, "cancelled", "on request")
        self._waiting.clear()
        self._give_up = self._give_up or time.monotonic() + GRACE_S + 4 * RELEASE_S

    def _drop_not_started(self) -> None:
        """Wait for no worker that has not begun: its block may still be in the queue."""
        self._note_starts()
        for future, task_id in list(self._futures.items()):
            if self._ledger.tasks[task_id].state == "submitted":
                del self._futures[future]
                self._ledger.end(task_id, "cancelled", "on request")

    def _note_starts(self) -> None:
        for task_id in self._futures.values():
            entry = self._ledger.tasks[task_id]
            if entry.state == "submitted":
                self._note_start(task_id)

    def _note_start(self, task_id: str) -> None:
        process = self._run.task(task_id).read_process()
        if process.get("attempt") == self._ledger.tasks[task_id].attempt:
            self._ledger.start(task_id, {"host": process["host"], "job": process["job"]})
            self._jobs[task_id] = process["job"]
            self._pool.started(process["job"])

    def _collect(self, cancelled: bool) -> None:
        for future, task_id in list(self._futures.items()):
            if future.done():
                del self._futures[future]
                if self._ledger.tasks[task_id].state == "submitted":
                    self._note_start(task_id)
                self._take(task_id, future, cancelled)
            elif self._ledger.tasks[task_id].state == "started" and self._pool.is_over(self._jobs.get(task_id)):
                del self._futures[future]  # its worker is gone, which Parsl notices later
                self._open[task_id] = ("its block has ended", time.monotonic() + RECORD_WITHIN_S)
        for task_id in list(self._open):
            self._settle(task_id, cancelled)
        if self._give_up is not None and time.monotonic() > self._give_up:
            for task_id in [*self._futures.values(), *self._open]:
                self._ledger.end(task_id, "cancelled", "its worker did not answer the request to cancel")
            self._futures.clear()
            self._open.clear()

    def _take(self, task_id: str, future: Future, cancelled: bool) -> None:
        """Take what a worker said of an attempt, or that it said nothing."""
        folder, entry = self._run.task(task_id), self._ledger.tasks[task_id]
        said, error = (None, future.exception()) if future.exception() else (future.result(), None)
        if said and said["ended"] == "no time":
            self._pool.refuses(said["block"])
        elif error and not type(error).__module__.startswith("parsl."):
            what = "could not be started" if entry.state == "submitted" else "its worker could not go on"
            self._write(task_id, End("failed", f"{what}: {type(error).__name__}: {error}"))
            return
        marker = _marker(folder, entry)
        never_started = entry.state == "submitted" and not marker and not folder.is_done()
        if never_started and not cancelled:
            self._false_starts[task_id] += 1
            if self._false_starts[task_id] < FALSE_STARTS:
                self._waiting.appendleft(task_id)
            else:
                self._write(task_id, End("failed", f"no worker has started it in {FALSE_STARTS} tries: {error}"))
        elif never_started:
            self._write(task_id, End("cancelled", "on request"))
        else:
            noticed = f"its worker was lost: {error}" if error else ""
            self._open[task_id] = (noticed, time.monotonic() + RECORD_WITHIN_S)
            self._settle(task_id, cancelled)

    def _settle(self, task_id: str, cancelled: bool) -> None:
        """Write down how an attempt ended, once its block's record is in where that is needed."""
        folder, (noticed, until) = self._run.task(task_id), self._open[task_id]
        marker, done, record = _marker(folder, self._ledger.tasks[task_id]), folder.is_done(), None
        if needs_record(done, marker, _last_line(folder)):
            record = self._pool.record(self._jobs.get(task_id))
            if record is not None and record.state not in ENDED and time.monotonic() < until and not cancelled:
                return
        del self._open[task_id]
        self._write(task_id, judge(done, marker, _last_line(folder), record, noticed, self._progress(task_id)))

    def _write(self, task_id: str, end: End) -> None:
        again = end.state in AGAIN and not self._run.cancel_request.exists()
        reason = end.reason
        if again:
            further = self._run.task(task_id).reached() != self._reached[task_id]
            self._idle[task_id] = 0 if further else self._idle[task_id] + 1
            self._starts[task_id] += 1
            allowed = self._tasks[task_id].resources.retries
            if self._starts[task_id] > allowed:
                again, reason = False, f"{reason} (after {allowed} retries)"
            elif self._idle[task_id] >= (1 if end.state == "time_limit" else IDLE_ATTEMPTS):
                again, reason = False, f"{reason} ({self._idle[task_id]} times in a row without getting further)"
        self._ledger.end(task_id, end.state, reason, end.exit_code, again, end.hint, end.evidence)
        if again:
            self._waiting.append(task_id)

    def _progress(self, task_id: str) -> str:
        folder, train = self._run.task(task_id), self._tasks[task_id].train
        return f"{folder.epochs_done()} of {train.epochs} epochs" if train else "nothing that is counted"


@contextlib.contextmanager
def _cancel_on_signals(run: RunDir) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, lambda *_: run.cancel_request.touch()) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
