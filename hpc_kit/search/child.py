"""The process that trains a rank's trials, one after the other: `python -m hpc_kit.search.child DESCRIPTOR GPUS`.

It takes orders on its standard input and answers on DESCRIPTOR, each a line of JSON, and holds nothing that its
search could not do without: killed, out of memory or after a fault of its own it is one trial's end, and its
supervisor (worker.py) starts another.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc_kit.files import write_json
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir, task_directory
from hpc_kit.runs.preempt import Watch
from hpc_kit.runs.process import JOB
from hpc_kit.search.messages import Lines, Message, line
from hpc_kit.spec.errors import InputError, NotFinite, OutOfMemory, Preempted, RankLost, WorkError

OTHER_ENDS_S = 90.0  # for the process of an attempt before, whose worker was lost, to write its checkpoint and end
_POLL_S = 0.2
Say = Callable[[Message], None]


def main(descriptor: int, gpus: int) -> int:
    """Train as ordered until the orders end; end sooner after a trial that did not end well. gpus: 0 or 1.

    Returns the exit code: 2 where there is no GPU that was asked for.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which its supervisor gets as well

    def say(message: Message) -> None:
        with contextlib.suppress(OSError):  # without its supervisor it has nobody to tell
            os.write(descriptor, line(message))

    with Watch(os.environ) as watch:
        import torch  # most of what a start takes

        import hpc_kit.train.loop  # noqa: F401
        from hpc_kit import machine

        if gpus and not torch.cuda.is_available():
            say({"is": "refuses", "why": "resources.gpus_per_rank is 1 but torch sees no GPU"})
            return 2
        machine.keep_freed_memory()
        orders = _Orders()
        say({"is": "ready"})
        while (order := orders.next()) is not None:
            if order["is"] == "run" and not _Trial(order, watch, say, orders).run():
                break
    return 0


class _Orders:
    """What comes on the standard input."""

    def __init__(self):
        self._lines, self._there = Lines(0), []

    def next(self) -> Message | None:
        """Wait for the next order; None where there will be none."""
        while not self._there:
            found = self._lines.read()
            if found is None:
                return None
            self._there += found
        return self._there.pop(0)

    def answer(self, number: int, watch: Watch) -> str:
        """Wait for what the manager says of a trial after an epoch: why to prune it, or ""."""
        while watch.asked() is None:
            if not self._there and not select.select([0], [], [], _POLL_S)[0]:
                continue
            order = self.next()
            if order is None:
                return ""
            if order["is"] == "answer" and order["number"] == number:
                return order["prune"]
        return ""


class _Trial:
    """One trial on this rank, which is one of its group's."""

    def __init__(self, order: Message, watch: Watch, say: Say, orders: _Orders):
        self._number, self._attempt, self._asks = order["number"], order["attempt"], order["asks"]
        self._out: TaskDir = task_directory(Path(order["task"]))
        self._ranks = Ranks(*order["ranks"], "search")
        self._watch, self._orders = watch, orders
        self._say = lambda message: say({"number": self._number} | message)
        self._epochs = 0

    def run(self) -> bool:
        """Run it and tell how it ended; return whether this process is as good as new."""
        cause = ""
        with _output_to(self._out.log):
            try:
                with self._alone():
                    state, reason, objectives = self._train()
            except Preempted as stop:
                if self._is_main:
                    self._out.write_stopped(stop.cause, str(stop))
                print(stop, flush=True)
                state, reason, objectives, cause = "interrupted", str(stop), None, stop.cause
            except Exception as error:
                if self._is_main:
                    with contextlib.suppress(OSError):
                        self._out.write_failed(error)
                state, reason, objectives = "failed", _reason(error), None
                if isinstance(error, RankLost):
                    state = "lost"
                _print_error(error)
        told = {"state": state, "reason": reason, "cause": cause, "objectives": objectives, "epochs": self._epochs}
        self._say({"is": "ended", **told})
        return state in ("done", "pruned")

    @property
    def _is_main(self) -> bool:
        return self._ranks.rank == 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the task's lock, once the process of an attempt before has let go of it."""
        if not self._is_main:
            yield
            return
        until = time.monotonic() + OTHER_ENDS_S
        while not self._out.lock.acquire():
            if time.monotonic() > until or self._watch.asked():
                raise RankLost(f"{self._out.path}: another process still works on this trial")
            time.sleep(_POLL_S)
        yield

    def _train(self) -> tuple[str, str, dict[str, float]]:
        """Return how it ended: state, reason and what it reached."""
        import torch

        from hpc_kit.train.distributed import Group
        from hpc_kit.train.loop import Training

        out, task = self._out, self._out.read_task()
        if self._is_main:
            self._begin(task)
        if out.is_done():
            return "done", "", self._reached()
        torch.set_num_threads(task.resources.cpus_per_rank)
        _forget()
        with Group.open(task, out, self._ranks, os.environ) as group:
            if group.device.type == "cuda":
                torch.cuda.set_device(group.device)
                torch.cuda.reset_peak_memory_stats()
            training = Training(task, out, group, self._watch, os.environ)
            for record in training.epochs():
                training.tracker.epoch(record)
                self._epochs = record["epoch"] + 1
                why = self._tell_epoch(task, record)
                if self._asks and group.any(bool(why)):
                    training.tracker.finish({"pruned": why})
                    return "pruned", why, self._reached()
            training.tracker.finish(training.test())
        if self._is_main:
            out.write_done(task.schema_version)
        return "done", "", self._reached()

    def _begin(self, task: Task) -> None:
        self._out.remove_leftovers()
        for word in (self._out.stopped, self._out.failed):
            word.unlink(missing_ok=True)
        where = {"pid": os.getpid(), "host": socket.gethostname(), "job": os.environ.get(JOB)}
        write_json(self._out.process, {"attempt": self._attempt, **where, "started_at": time.time()})
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {task.id} ({task.label}) pid {os.getpid()}", flush=True)

    def _tell_epoch(self, task: Task, record: dict[str, Any]) -> str:
        """Tell the manager of an epoch; return why to prune this trial, "" where it goes on."""
        if not self._is_main:
            return ""
        self._say({"is": "epoch", "epoch": record["epoch"], "score": task.work.score(record)})
        if not self._asks or record["epoch"] + 1 == task.work.train.epochs:
            return ""
        return self._orders.answer(self._number, self._watch)

    def _reached(self) -> dict[str, float] | None:
        """Return the least validation error and the median time of an epoch, in s, of all attempts."""
        if not self._is_main:
            return None
        work, records = self._out.read_task().work, self._out.read_epochs()
        self._epochs = len(records)
        times = [record["wall_s"] for record in records if record["wall_s"] is not None]
        return {"error": min(map(work.score, records)), "epoch_s": statistics.median(times) if times else None}


def _reason(error: Exception) -> str:
    """Return why a trial failed; what stands before the colon is the kind of reason that failures are counted by."""
    import torch

    text = " ".join(str(error).split())
    if isinstance(error, NotFinite):
        return f"not finite: {text}"
    if isinstance(error, OutOfMemory | MemoryError | torch.OutOfMemoryError):
        return f"out of memory: {text or 'no more was to be had'}"
    if isinstance(error, InputError):
        return f"impossible: {text}"
    if isinstance(error, RankLost):
        return f"rank lost: {text}"
    if isinstance(error, WorkError):
        return f"work failed: {text}"
    return f"{type(error).__name__}: {text}"


def _print_error(error: Exception) -> None:
    if isinstance(error, InputError | WorkError):
        print(error, file=sys.stderr, flush=True)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def _forget() -> None:
    """Give back what an earlier trial held, and let the peaks of memory be counted anew."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak resident set size


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Have all that this process writes, libraries in C too, appended to a trial's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, one in enumerate(before, 1):
            os.dup2(one, number)
            os.close(one)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
