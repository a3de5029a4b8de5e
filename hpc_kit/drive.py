"""The tasks of a run on their way: handed to workers, followed, judged as they end, started again where the cause
lies outside.

Not for: the run as a whole (submit.py), where attempts run (sites/workers.py) or what their ends mean
(sites/outcome.py).
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.ledger import Entry, Ledger
from hpc_kit.runs.process import GRACE_S
from hpc_kit.sites.outcome import AGAIN, End, Left, judge, needs_record
from hpc_kit.sites.scheduler import ENDED
from hpc_kit.sites.workers import OwnThread, Say, ThroughParsl
from hpc_kit.spec.walltime import in_words

POLL_S = 0.5
BEAT_S = 10.0
RELEASE_S = 5.0
RECORD_WITHIN_S = 60.0  # how long a block's accounting may lag behind the end of an attempt
IDLE_ATTEMPTS = 2  # a task that outside causes end so often in a row without getting further fails
FALSE_STARTS = 10
SKEW_S = 60.0


class Drive:
    """The tasks of one drive: those that wait, those under way, and those that have ended and nobody knows yet
    why."""

    def __init__(self, run: RunDir, ledger: Ledger, pool: OwnThread | ThroughParsl, todo: list[Task], say: Say):
        self._run, self._ledger, self._pool, self._say = run, ledger, pool, say
        self._hosts: set[str] = set()  # those whose clocks have been looked at
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

    def __enter__(self) -> "Drive":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *_) -> None:
        """Write down what could not be followed to its end."""
        handed_out = (name for name in self._waiting if self._ledger.tasks[name].state == "submitted")
        for task_id in [*self._futures.values(), *self._open, *handed_out]:
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
                self._pool.tend(len(self._futures) + len(self._waiting), len(self._open), self._busy())
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

    def _busy(self) -> set[str]:
        """Return the blocks in which tasks are at work."""
        at_work = (task_id for task_id in self._futures.values() if self._ledger.tasks[task_id].state == "started")
        return {job for task_id in at_work if (job := self._jobs.get(task_id))}

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
            self._look_at_clock(task_id, process)

    def _look_at_clock(self, task_id: str, process: dict[str, Any]) -> None:
        """Say of a host, once, that its clock is not the file server's. Nothing is decided by it."""
        host = process["host"]
        if host not in self._hosts:
            self._hosts.add(host)
            off = process["started_at"] - self._run.task(task_id).process.stat().st_mtime
            if abs(off) > SKEW_S:
                which = "ahead of" if off > 0 else "behind"
                self._say(f"the clock of {host} is {in_words(round(abs(off)))} {which} the file server's")

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
            if not cancelled:
                self._waiting.appendleft(task_id)  # no false start: it is the block that is no good
                self._pool.refuses(said["block"], said["why"])
                return
        elif error and not type(error).__module__.startswith("parsl."):
            what = "could not be started" if entry.state == "submitted" else "its worker could not go on"
            self._write(task_id, End("failed", f"{what}: {type(error).__name__}: {error}"))
            return
        left = what_is_left(folder, entry, self._tasks[task_id])
        never_started = entry.state == "submitted" and not left.marker and not left.done
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
        noticed, until = self._open[task_id]
        left = what_is_left(self._run.task(task_id), self._ledger.tasks[task_id], self._tasks[task_id])
        record = None
        if needs_record(left):
            record = self._pool.record(self._jobs.get(task_id))
            over = record is None or record.state in ENDED or record.earlier is not None
            if not over and time.monotonic() < until and not cancelled:
                return
        del self._open[task_id]
        self._write(task_id, judge(left, record, noticed, self._progress(task_id)))

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
        progress, (total, unit) = self._run.task(task_id).read_progress(), self._tasks[task_id].work.amount()
        return f"{progress.get('done', 0)} of {progress.get('total', total)} {progress.get('unit', unit)}"


def what_is_left(folder: TaskDir, entry: Entry, task: Task) -> Left:
    """Return what the last attempt at a task has left behind, and nothing of one before."""
    marker = folder.read_exit()
    begun = folder.read_process().get("attempt") == entry.attempt
    return Left(
        done=folder.is_done(),
        marker=marker if marker.get("attempt") == entry.attempt else {},
        stopped=folder.read_stopped() if begun else {},
        failed=folder.read_failed() if begun else {},
        last_line=next(iter(folder.log_tail(1)), ""),
        launched=task.resources.nodes > 1,
    )
