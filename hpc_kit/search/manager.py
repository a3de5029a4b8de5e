"""The rank that manages a search: which trial begins next and on which ranks, what an attempt's end means, when the
search ends. It asks the optimiser and answers the workers, and trains nothing itself.

Not for: messages (messages.py), what is written down (journal.py), which values to try (optimizer.py).
"""

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.runs.process import GRACE_S
from hpc_kit.search.journal import Clocks, Journal
from hpc_kit.search.messages import Hub, Message
from hpc_kit.search.optimizer import Optimizer
from hpc_kit.search.pruning import why_to_prune
from hpc_kit.search.records import ENDS
from hpc_kit.search.trials import trial_task
from hpc_kit.spec.errors import InputError, Preempted, RankLost, WorkError

MOST_KILLED = 2  # so often a trial's process may be killed from outside before the trial counts as failed
MOST_LOST = 3  # so many workers may be lost with a trial before it does
REJOIN_S = 20.0  # how long a search that is left without workers waits for one that its launcher starts again
_BEAT_S = 10.0
_POLL_S = 0.25
_OPTIMIZER = -1  # whom the inbox names where the optimiser has a proposal


@dataclass
class _Trial:
    number: int
    task: Task
    values: dict[str, Any]
    ranks: tuple[int, ...] = ()  # that it runs on
    reports: dict[int, Message] = field(default_factory=dict)  # rank -> how the attempt ended there
    epochs: int = 0


class Manager:
    """One attempt at a search."""

    def __init__(self, task: Task, directory: TaskDir, ranks: Ranks, hub: Hub, watch: Watch, timeout: float):
        self._task, self._search, self._ranks, self._hub, self._watch = task, task.work.search, ranks, hub, watch
        self._log = sys.stdout  # the optimiser's library is silenced by having it replaced for a while
        self._timeout, self._each = timeout, task.work.search.ranks_per_trial
        self._journal, self._clocks = Journal(directory, task), Clocks()
        self._optimizer = Optimizer(self._search, task.work, task.seed)
        self._thinking = ThreadPoolExecutor(1, "optimizer")
        self._proposes = False  # the optimiser is at work
        self._untold: list[tuple[dict[str, Any], dict[str, float] | None]] = []
        self._waiting: deque[_Trial] = deque()
        self._running: dict[int, _Trial] = {}  # by number
        self._at: dict[int, _Trial] = {}  # by rank
        self._hosts: dict[int, str] = {}  # rank -> host, of the workers there are
        self._free: set[int] = set()
        self._curves: dict[int, list[float]] = {}  # number -> the score of each epoch
        self._first: dict[str, int] = {}  # task id -> number of the first trial with these values
        self._outcomes: dict[int, Message] = {}  # number -> how it ended for good
        self._twins: dict[int, list[tuple[int, Task, dict[str, Any]]]] = {}  # number -> others that wait for its end
        self._stop: tuple[str, str] | None = None  # why, and its cause
        self._useless = ""
        self._asked = 0
        self._take_up()

    def run(self) -> None:
        """Search until the budget is spent. Raises Preempted where it stops early, RankLost where no workers are
        left."""
        begun = enough_at = time.monotonic()
        next_beat, stopped_at, named = 0.0, float("inf"), False
        try:
            while self._journal.ended < self._search.trials:
                now = time.monotonic()
                if now >= next_beat:
                    self._journal.beat()
                    next_beat = now + _BEAT_S
                if self._stop is None and (why := self._watch.asked()):
                    self._begin_to_stop(why, self._watch.cause)
                if self._stop is None:
                    self._fill()
                else:
                    stopped_at = min(stopped_at, now)
                    if not self._running or now > stopped_at + GRACE_S:
                        raise Preempted(*self._stop)
                if len(self._hosts) >= self._each:
                    enough_at = now
                elif now - enough_at > (REJOIN_S if enough_at > begun or self._useless else self._timeout):
                    raise self._alone()
                if not named and now > begun + self._timeout:
                    named = True
                    self._name_missing()
                self._hear()
            self._journal.workers(self._clocks.stop())
            self._journal.write_metrics()
            self._end_workers({"is": "end"})
        except Preempted as stop:
            self._journal.workers(self._clocks.stop())
            self._end_workers({"is": "end", "why": str(stop), "cause": stop.cause})
            raise
        finally:
            self._thinking.shutdown(cancel_futures=True)
            self._journal.close()

    def _take_up(self) -> None:
        """Go on from what earlier attempts have left: tell the optimiser of what has ended, begin with the rest."""
        for before in self._journal.before:
            self._asked = max(self._asked, before.number + 1)
            task = self._task_of(before.values)[0]
            ended = before.state in ENDS
            if task is not None:
                twin = self._first.setdefault(task.id, before.number) != before.number
                if not ended and not twin:
                    self._waiting.append(_Trial(before.number, task, before.values))
                elif not ended:
                    self._twins.setdefault(self._first[task.id], []).append((before.number, task, before.values))
                if not twin and self._search.pruning is not None:
                    self._curves[before.number] = self._journal.curve(task)
            if ended:
                self._outcomes[before.number] = {"state": before.state, "objectives": before.objectives}
                self._untold.append((before.values, before.objectives))
            else:
                self._optimizer.remember(before.values)

    def _task_of(self, values: dict[str, Any]) -> tuple[Task | None, str]:
        """Return the task of a trial with these values, or why there can be none."""
        try:
            return trial_task(self._task, values), ""
        except InputError as error:
            return None, f"impossible: {' '.join(str(error).split())}"

    def _fill(self) -> None:
        """Begin trials on the workers that are free; ask for another where there is none to begin."""
        while len(self._free) >= self._each and self._waiting:
            ranks = _consecutive(sorted(self._free), self._each)
            self._begin(self._waiting.popleft(), ranks)
        if self._asked >= self._search.trials:
            if not self._waiting and not self._proposes:
                for rank in self._free:
                    self._clocks.turn(rank, "spare")
        elif not self._proposes and (len(self._free) >= self._each or not (self._asked or self._waiting)):
            # the first while workers are starting, because the optimiser takes its time to load
            self._proposes = True
            untold, self._untold = self._untold, []
            future = self._thinking.submit(self._ask, untold)
            future.add_done_callback(lambda done: self._hub.inbox.put((_OPTIMIZER, {"is": "proposal", "of": done})))

    def _ask(self, untold: list[tuple[dict[str, Any], dict[str, float] | None]]) -> tuple[Any, str, float, float]:
        """Tell the optimiser what has ended and ask for the next values; in a thread, so that nobody waits for it."""
        wall, cpu = time.monotonic(), time.process_time()
        for values, objectives in untold:
            self._optimizer.tell(values, objectives)
        values, by = self._optimizer.ask()
        return values, by, time.process_time() - cpu, time.monotonic() - wall

    def _hear(self) -> None:
        """Take what has come; wait a moment where nothing has."""
        try:
            rank, message = self._hub.inbox.get(timeout=_POLL_S)
            while True:
                self._take(rank, message)
                rank, message = self._hub.inbox.get_nowait()
        except Empty:
            return

    def _take(self, rank: int, message: Message | None) -> None:
        kind = "gone" if message is None else message["is"]
        if kind == "proposal":
            self._propose(message["of"])
        elif kind == "hello":
            self._hosts[rank] = message["host"]
            self._clocks.turn(rank, "starting")
            print(
                f"rank {rank} of {self._ranks.size} works at {message['host']}:{message['pid']}",
                file=self._log,
                flush=True,
            )
        elif kind == "gone":
            self._lose(rank)
        elif kind == "asked":
            self._begin_to_stop(f"rank {rank}: {message['why']}", message["cause"])
        elif kind == "useless":
            self._useless = message["why"]
            print(message["why"], file=self._log, flush=True)
        elif kind == "epoch":
            self._take_epoch(rank, message)
        elif kind == "ended" and rank in self._at:
            trial = self._at.pop(rank)
            trial.reports[rank] = message
            self._clocks.turn(rank, "starting")
        if message is not None and message.get("ready") and rank not in self._at and rank in self._hosts:
            self._free.add(rank)
            self._clocks.turn(rank, "idle" if self._stop is None else "spare")
        if kind in ("ended", "gone"):
            self._settle()

    def _propose(self, proposal: Future) -> None:
        """Take a trial that the optimiser has proposed. Raises WorkError where it could not."""
        try:
            values, by, cpu_s, wall_s = proposal.result()
        except (InputError, WorkError):
            raise
        except Exception as error:  # whatever the library raises
            raise WorkError(f"the optimiser failed: {type(error).__name__}: {error}") from error
        self._proposes = False
        self._journal.optimizer(1, cpu_s, wall_s)
        number, self._asked = self._asked, self._asked + 1
        task, why_not = self._task_of(values)
        first = None if task is None else self._first.setdefault(task.id, number)
        self._journal.asked(number, task, values, by if first in (None, number) else "repeat")
        if task is None:
            self._end(number, None, values, {"state": "failed", "reason": why_not, "objectives": None, "epochs": 0})
        elif first == number:
            self._waiting.append(_Trial(number, task, values))
        elif first in self._outcomes:
            self._end(number, task, values, self._outcomes[first], twin=True)
        else:
            self._twins.setdefault(first, []).append((number, task, values))

    def _begin(self, trial: _Trial, ranks: tuple[int, ...]) -> None:
        """Give a trial to its ranks."""
        host = self._hosts[ranks[0]]
        path, attempt = self._journal.started(trial.number, trial.task, ranks[0], host)
        trial.ranks, trial.reports = ranks, {}
        self._running[trial.number] = trial
        order = {"is": "run", "number": trial.number, "attempt": attempt, "task": str(path)}
        order["asks"] = self._search.pruning is not None
        hosts = [self._hosts[rank] for rank in ranks]
        for place, rank in enumerate(ranks):
            self._free.discard(rank)
            self._at[rank] = trial
            self._clocks.turn(rank, "busy")
            local = hosts[:place].count(hosts[place]), hosts.count(hosts[place])
            self._hub.send(rank, order | {"ranks": [place, len(ranks), *local]})

    def _take_epoch(self, rank: int, message: Message) -> None:
        """Take the score of an epoch; where trials are pruned, answer whether this one is."""
        trial = self._at.get(rank)
        if trial is None or message["number"] != trial.number:
            return
        curve = self._curves.setdefault(trial.number, [])
        curve[message["epoch"] :] = [message["score"]]
        trial.epochs = len(curve)
        if self._search.pruning is not None:
            why = why_to_prune(self._search.pruning, self._curves, trial.number, trial.task.work.train.epochs)
            self._hub.send(rank, {"is": "answer", "number": trial.number, "prune": why})

    def _lose(self, rank: int) -> None:
        """Take leave of a worker that is gone, or does not answer."""
        host = self._hosts.pop(rank, "")
        self._free.discard(rank)
        self._clocks.turn(rank, None)
        why = f"rank lost: rank {rank} of {self._ranks.size} (host {host}) is gone"
        if self._stop is None:
            print(why, file=self._log, flush=True)
        if rank in self._at:
            trial = self._at.pop(rank)
            trial.reports[rank] = {"state": "lost", "reason": why, "objectives": None, "epochs": None}

    def _settle(self) -> None:
        """Write down the attempts that have ended on all of their ranks."""
        for trial in [trial for trial in self._running.values() if len(trial.reports) == len(trial.ranks)]:
            del self._running[trial.number]
            report = trial.reports[trial.ranks[0]]
            if report["state"] not in ("done", "pruned"):
                report = min(trial.reports.values(), key=lambda one: _TELLING.index(one["state"]))
            self._judge(trial, dict(report))

    def _judge(self, trial: _Trial, report: Message) -> None:
        """Decide what an attempt's end means for its trial: over, or once more."""
        if report["epochs"] is None:
            report["epochs"] = trial.epochs
        state, reason = report["state"], report["reason"]
        if state == "interrupted" and self._stop is None:
            if report.get("cause") == "time_limit":
                self._begin_to_stop(reason, "time_limit")
            else:
                state, reason = "killed", f"process killed: {reason}"
        if state in ("killed", "lost"):
            times = self._journal.losses(trial.number, reason) + 1
            over = times >= (MOST_KILLED if state == "killed" else MOST_LOST)
            state, reason = ("failed", f"{reason}, {times} times") if over else ("lost", reason)
        self._end(trial.number, trial.task, trial.values, report | {"state": state, "reason": reason})
        if state not in ENDS:
            self._waiting.appendleft(trial)

    def _end(
        self, number: int, task: Task | None, values: dict[str, Any], outcome: Message, twin: bool = False
    ) -> None:
        """Write down an end; one for good is told to the optimiser, and stands for the twins of the trial too."""
        state, reason, objectives = outcome["state"], outcome["reason"], outcome["objectives"]
        self._journal.end(number, task, state, reason, objectives, outcome["epochs"], twin)
        if state in ENDS:
            print(f"trial {number}: {state} {reason or objectives}", file=self._log, flush=True)
            self._outcomes[number] = outcome
            self._untold.append((values, objectives))
            for other in self._twins.pop(number, ()):
                self._end(*other, outcome, twin=True)

    def _begin_to_stop(self, why: str, cause: str) -> None:
        """Have all that runs write a checkpoint and end."""
        if self._stop is None:
            self._stop = why, cause
            print(f"{why}: trials under way write their checkpoints", file=self._log, flush=True)
            for rank in self._free:
                self._clocks.turn(rank, "spare")
            for rank, trial in self._at.items():
                self._hub.send(rank, {"is": "stop", "number": trial.number})

    def _end_workers(self, message: Message) -> None:
        for rank in list(self._hosts):
            self._hub.send(rank, message)

    def _name_missing(self) -> None:
        first = 0 if self._search.rank_0_trains else 1
        if missing := [str(rank) for rank in range(first, self._ranks.size) if rank not in self._hosts]:
            print(
                f"rank {', '.join(missing)} of {self._ranks.size} did not come; the search goes on without",
                flush=True,
            )

    def _alone(self) -> WorkError:
        if self._useless:
            return WorkError(self._useless)
        needed = (
            "no rank is left to work"
            if not self._hosts
            else f"{len(self._hosts)} ranks are left and a trial takes {self._each}"
        )
        return RankLost(f"{needed}; the trials so far are kept, and 'hpc_kit resume' goes on")


_TELLING = ("failed", "killed", "pruned", "done", "interrupted", "lost")  # of a group's reports, what says most


def _consecutive(free: list[int], count: int) -> tuple[int, ...]:
    """Return the first `count` ranks without a gap between them; with one where there are no others."""
    for start in range(len(free) - count + 1):
        if free[start + count - 1] - free[start] == count - 1:
            return tuple(free[start : start + count])
    return tuple(free[:count])
