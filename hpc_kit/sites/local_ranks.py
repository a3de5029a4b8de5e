"""Starts the ranks of a task on this machine: `python -m hpc_kit.sites.local_ranks [--outlive] COUNT COMMAND...`.

Signals go on to every rank. When one rank ends badly the others get WAIT_S to end by themselves, which they do once
they have written down why. The exit code is the most telling of theirs. (torchrun turns every code into 1, and does
not survive a SIGUSR1, let alone pass it on.)

With --outlive all goes on until rank 0 ends, whose exit code is the launcher's; another rank that is killed is
started again. That is for work which a rank may leave and join.
"""

import os
import signal
import subprocess
import sys
import time

from hpc_kit.ranks import LAUNCHERS
from hpc_kit.runs.process import end_with_parent
from hpc_kit.spec.errors import PREEMPTED

WAIT_S = 20.0
POLL_S = 0.05
MOST_RESTARTS = 3  # of each rank
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run_ranks(count: int, argv: list[str], outlive: bool = False) -> int:
    """Run `argv` as `count` ranks and return the exit code that says most of how they ended.

    outlive: the others go on where one other than 0 ends badly, and one that was killed is started again.
    """
    ranks: list[subprocess.Popen] = []
    asked = False

    def forward(number: int, _) -> None:
        nonlocal asked
        asked = True
        for rank in ranks:
            rank.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)

    def start(rank: int) -> subprocess.Popen:
        place = dict(zip(LAUNCHERS["hpc_kit"], map(str, (rank, count) * 2), strict=True))
        return subprocess.Popen(argv, env=os.environ | place, preexec_fn=end_with_parent)

    for rank in range(count):
        ranks.append(start(rank))
    restarts = [0] * count
    codes: dict[int, int] = {}
    deadline = None
    while len(codes) < count:
        for number, rank in enumerate(ranks):
            if number not in codes and (code := rank.poll()) is not None:
                codes[number] = code
                if code < 0:
                    sys.stderr.write(f"rank {number} of {count} was killed by {signal.Signals(-code).name}\n")
                if outlive and number > 0:
                    if code < 0 and not asked and 0 not in codes and restarts[number] < MOST_RESTARTS:
                        restarts[number] += 1
                        del codes[number]
                        ranks[number] = start(number)
                elif (code != 0 or outlive) and deadline is None:
                    deadline = time.monotonic() + WAIT_S
        if deadline is not None and time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
        time.sleep(POLL_S)
    return most_telling([codes[0]] if outlive else list(codes.values()))


def most_telling(codes: list[int]) -> int:
    """Return 2 (wrong input) before 1 or another failure before PREEMPTED before 128 + a signal before 0."""
    failures = [code for code in codes if code > 0 and code != PREEMPTED]
    if failures:
        return max(failures, key=lambda code: (code == 2, code == 1))
    signals = [128 - code for code in codes if code < 0]
    return PREEMPTED if PREEMPTED in codes else max(signals, default=0)


if __name__ == "__main__":
    words = sys.argv[1:]
    outlive = words[0] == "--outlive"
    number, *command = words[outlive:]
    sys.exit(run_ranks(int(number), command, outlive))
