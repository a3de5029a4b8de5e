"""The launcher of a machine's own ranks: places, signals, exit codes, and no rank left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hpc_kit.sites.local_ranks import most_telling

LAUNCH = (
    "import sys; from hpc_kit.sites import local_ranks as r; r.WAIT_S = 0.5; sys.exit(r.run_ranks({}, sys.argv[1:]))"
)
HEAD = """
import os, signal, sys, time
rank = int(os.environ['HPC_KIT_RANK'])
say = lambda *words: os.write(1, (' '.join(map(str, words)) + '\\n').encode())
"""


def start(ranks: int, code: str) -> subprocess.Popen:
    argv = [sys.executable, "-c", LAUNCH.format(ranks), sys.executable, "-c", HEAD + code]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_rank_knows_its_place():
    code = "say(*(os.environ['HPC_KIT_' + x] for x in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')))"
    out = start(3, code).communicate(timeout=60)[0]
    assert sorted(out.splitlines()) == ["0 3 0 3", "1 3 1 3", "2 3 2 3"]


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([0, 75], 75),
        ([75, 1, 0], 1),
        ([1, 2, 75], 2),
        ([1, 7], 1),
        ([-9, 1], 1),
        ([-9, -15, 0], 143),
        ([-9, 75], 75),
    ],
)
def test_most_telling_exit_code(codes, code):
    assert most_telling(codes) == code


def test_exit_code_of_preempted_ranks_is_kept():
    launcher = start(3, "sys.exit(75)")
    launcher.communicate(timeout=60)
    assert launcher.returncode == 75


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_signals_go_on_to_every_rank(name):
    code = f"signal.signal(signal.{name}, lambda *_: (say('told'), sys.exit(75)))\nsay('ready'); time.sleep(60)"
    launcher = start(2, code)
    for _ in range(2):
        assert launcher.stdout.readline() == "ready\n"
    launcher.send_signal(getattr(signal, name))
    assert launcher.communicate(timeout=30)[0] == "told\ntold\n"
    assert launcher.returncode == 75


def test_others_are_ended_after_one_was_killed():
    began = time.monotonic()
    launcher = start(3, "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)")
    error = launcher.communicate(timeout=30)[1]
    assert time.monotonic() - began < 15
    assert error.splitlines()[0] == "rank 1 of 3 was killed by SIGKILL"
    assert launcher.returncode == 128 + signal.SIGKILL


def test_ranks_end_when_their_launcher_is_killed():
    launcher = start(2, "say(os.getpid()); time.sleep(60)")
    pids = [int(launcher.stdout.readline()) for _ in range(2)]
    launcher.kill()
    launcher.stdout.read()  # until the last rank closes it
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            for pid in pids:
                os.kill(pid, 0)
            time.sleep(0.05)
