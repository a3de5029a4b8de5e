"""A rank that works for a search: it holds the process that trains (child.py), gives it what the manager orders, and
tells the manager how each trial ended, whatever became of that process.

It loads neither torch nor the data, so that what goes wrong in a trial does not end it.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import NoReturn

from hpc_kit import machine
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.runs.process import GRACE_S, end_with_parent
from hpc_kit.search.messages import BEAT_S, Line, Lines, Message, connect, line
from hpc_kit.spec.errors import InputError, Preempted, RankLost, WorkError

FALSE_STARTS = 3  # so many training processes in a row that end before they are ready end the worker
_LAST_S = 10.0  # for an idle process to end
_POLL_S = 0.5


def work(task: Task, directory: TaskDir, ranks: Ranks, watch: Watch | None, timeout: float) -> None:
    """Work for the search until it ends. `watch`: what takes this process's signals, None where another does.

    Raises Preempted where the search stops early, RankLost where rank 0 is gone, WorkError where no process to train
    in can be started.
    """
    hello = {"rank": ranks.rank, "host": socket.gethostname(), "pid": os.getpid()}
    manager, told = connect(directory.rendezvous, hello, timeout, watch.asked if watch else lambda: None)
    with contextlib.closing(manager):
        idle = told["idle_host"] == hello["host"]  # rank 0 is on this node and needs no GPU
        shown = _own_gpu(ranks.local_rank - idle) if task.resources.gpus_per_rank else {}
        worker = _Worker(manager, ranks, watch, task.resources.gpus_per_rank, dict(os.environ) | shown)
        try:
            worker.serve()
        finally:
            worker.end_child()


class _Worker:
    def __init__(self, manager: Line, ranks: Ranks, watch: Watch | None, gpus: int, environment: dict[str, str]):
        self._manager, self._ranks, self._watch = manager, ranks, watch
        self._gpus, self._environment = gpus, environment
        self._selector = selectors.DefaultSelector()
        self._selector.register(manager, selectors.EVENT_READ, self._hear_manager)
        self._child: subprocess.Popen | None = None
        self._answers: Lines | None = None
        self._trial: int | None = None  # under way in the child
        self._ready = self._told = self._over = False
        self._false_starts, self._said = 0, ""
        self._kills = machine.out_of_memory_kills()

    def serve(self) -> None:
        """Do what the manager orders until it ends this."""
        self._start_child()
        next_beat = 0.0
        while not self._over:
            for key, _ in self._selector.select(_POLL_S):
                if not self._over:
                    key.data()
            if time.monotonic() > next_beat:
                self._manager.send({"is": "beat"})
                next_beat = time.monotonic() + BEAT_S
            if self._watch and not self._told and (why := self._watch.asked()):
                self._told = True
                self._manager.send({"is": "asked", "why": why, "cause": self._watch.cause})

    def end_child(self) -> None:
        """End the process that trains: with its checkpoint where it is at work."""
        child = self._child
        if child is None:
            return
        if self._trial is not None:
            child.send_signal(signal.SIGUSR1)
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            child.wait(_LAST_S if self._trial is None else GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _hear_manager(self) -> None:
        told = self._manager.read()
        if told is None:
            raise RankLost(f"rank 0 of {self._ranks.size} is gone: its connection has ended")
        for message in told:
            self._obey(message)

    def _obey(self, message: Message) -> None:
        if message["is"] == "end":
            self._over = True
            if message.get("cause"):
                raise Preempted(message["why"], message["cause"])
        elif message["is"] == "run":
            self._trial = message["number"]
            self._order(message)
        elif message["number"] == self._trial:  # "answer" or "stop"; what is meant for an earlier one came too late
            if message["is"] == "stop":
                self._child.send_signal(signal.SIGUSR1)
            else:
                self._order(message)

    def _order(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # its death is noticed by the end of its answers
            self._child.stdin.write(line(message))
            self._child.stdin.flush()

    def _start_child(self) -> None:
        answers, descriptor = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "hpc_kit.search.child", str(descriptor), str(self._gpus)],
                stdin=subprocess.PIPE,
                pass_fds=(descriptor,),
                env=self._environment,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise WorkError(f"no process to train in can be started: {error.strerror}") from None
        finally:
            os.close(descriptor)
        self._answers, self._ready = Lines(answers), False
        self._selector.register(answers, selectors.EVENT_READ, self._hear_child)

    def _hear_child(self) -> None:
        told = self._answers.read()
        if told is None:
            self._replace_child()
            return
        for message in told:
            if message["is"] == "refuses":
                self._said = message["why"]
                continue
            if message["is"] == "ready":
                self._ready, self._false_starts = True, 0
            elif message["is"] == "ended":
                self._trial = None
                self._ready = message["state"] in ("done", "pruned")
            self._manager.send(message | {"ready": self._ready})

    def _replace_child(self) -> None:
        """Take leave of a child that has ended, say what that meant for its trial, and start another."""
        self._selector.unregister(self._answers.descriptor)
        os.close(self._answers.descriptor)
        code = self._child.wait()
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        self._child = None
        kills, before = machine.out_of_memory_kills(), self._kills
        self._kills = kills
        if self._trial is not None:
            state, reason = _end_of(code, kills > before)
            number, self._trial = self._trial, None
            told = {"number": number, "state": state, "reason": reason, "objectives": None, "epochs": None}
            self._manager.send({"is": "ended", "ready": False} | told)
        elif not self._ready and code != 0:
            self._false_starts += 1
            if code == 2 or self._false_starts == FALSE_STARTS:
                self._give_up(code)
        self._start_child()

    def _give_up(self, code: int) -> NoReturn:
        where = f"rank {self._ranks.rank} on {socket.gethostname()}"
        ended = (
            f"{self._false_starts} training processes in a row ended before they were ready, with exit code {code}"
        )
        why = f"{where}: {self._said or ended}"
        self._manager.send({"is": "useless", "why": why})
        raise InputError(why) if code == 2 else WorkError(why)


def _end_of(code: int, out_of_memory: bool) -> tuple[str, str]:
    """Return state and reason of a trial whose process ended with `code` in the middle of it.

    What a process brings upon itself would come again; what comes from outside may not.
    """
    if out_of_memory:
        return "failed", "out of memory: the kernel ended its process"
    if code >= 0:
        return "failed", f"process ended: with exit code {code}"
    name = signal.Signals(-code).name
    own = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
    return ("failed" if -code in own else "killed"), f"process killed: by {name}"


def _own_gpu(place: int) -> dict[str, str]:
    """Return what shows the process of the worker `place` of its node a GPU of its own, of those that the rank sees.

    Raises InputError where there are too few.
    """
    visible = machine.visible_gpus()
    if len(visible) < 2:
        return {}
    if place >= len(visible):
        raise InputError(
            f"{len(visible)} GPUs are seen on {socket.gethostname()} and more ranks than that train there: start as"
            " many ranks a node as it has GPUs"
        )
    return {"CUDA_VISIBLE_DEVICES": visible[place]}
