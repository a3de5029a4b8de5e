"""When to stop early: a signal from the scheduler, or the end of the time that was given."""

import os
import signal
import threading
import time
from collections.abc import Mapping

# Seconds since 1970. The first is for sites whose scheduler tells no such thing; Slurm sets the second.
DEADLINES = ("HPC_KIT_DEADLINE", "SLURM_JOB_END_TIME")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LEAST_MARGIN_S = 60.0
MOST_MARGIN_S = 1800.0
SAME_REQUEST_S = 2.0


class Watch:
    """Takes the signals for the time of the block; `asked` tells whether to stop, and why.

    The margin before the deadline is twice the longest thing that `stepped` was told of, a step or a checkpoint,
    within bounds, and never more than half of what was left when the block began. A second SIGTERM ends the process
    at once; one that comes within SAME_REQUEST_S of the first is the same request, passed on by a launcher as well.
    After the block a process that was asked is deaf to more: it has its checkpoint, and ends. Outside the main
    thread, where Python takes no signals, the deadline alone is watched.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ):
        times = [float(environment[name]) for name in DEADLINES if environment.get(name)]
        self._deadline = min(times, default=None)
        self._most = MOST_MARGIN_S
        self._longest = 0.0
        self._signal = ""
        self._terminated = None
        self._before = {}

    def __enter__(self) -> "Watch":
        if self._deadline is not None:
            self._most = min(self._most, max(0.0, self._deadline - time.time()) / 2)
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._signal else handler)

    def stepped(self, seconds: float) -> None:
        """Learn how long a step or a checkpoint took."""
        self._longest = max(self._longest, seconds)

    def asked(self) -> str | None:
        """Return why to stop now, None where there is no reason to."""
        if self._is_late():
            return f"{max(0.0, self._deadline - time.time()):.0f} s are left of the time given"
        return f"{self._signal} was sent" if self._signal else None

    @property
    def cause(self) -> str:
        """Why it was asked to stop, as errors.CAUSES names it. A signal shortly before the deadline warns of that."""
        return "time_limit" if self._is_late() else "preempted"

    def _is_late(self) -> bool:
        if self._deadline is None:
            return False
        return self._deadline - time.time() < min(self._most, max(LEAST_MARGIN_S, 2 * self._longest))

    def _note(self, number: int, _) -> None:
        self._signal = self._signal or signal.Signals(number).name
        if number == signal.SIGTERM:
            now = time.monotonic()
            if self._terminated is None:
                self._terminated = now
            elif now - self._terminated > SAME_REQUEST_S:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
