"""When a training is asked to stop: by signals, and by the end of its time."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hpc_kit.runs import preempt
from hpc_kit.runs.preempt import Watch


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_signal_asks_and_later_ones_are_not_heard(name):
    number = getattr(signal, name)
    with Watch({}) as watch:
        assert watch.asked() is None
        os.kill(os.getpid(), number)
        assert watch.asked() == f"{name} was sent"
    os.kill(os.getpid(), number)


def test_handlers_come_back_where_nothing_was_asked():
    before = signal.getsignal(signal.SIGTERM)
    with Watch({}):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_same_request_passed_on_by_a_launcher_is_one():
    with Watch({}) as watch:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert watch.asked() == "SIGTERM was sent"


def test_second_sigterm_ends_at_once():
    code = (
        "import os, signal, time; from hpc_kit.runs import preempt; preempt.SAME_REQUEST_S = 0.01\n"
        "with preempt.Watch({}):\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)\n"
        "print('still here')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (-signal.SIGTERM, "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows `clock[0]` seconds."""
    now = [1000.0]
    monkeypatch.setattr(preempt.time, "time", lambda: now[0])
    return now


@pytest.mark.parametrize("name", ["HPC_KIT_DEADLINE", "SLURM_JOB_END_TIME"])
def test_end_of_the_time_given_is_seen_a_minute_ahead(clock, name):
    with Watch({name: "2000"}) as watch:
        clock[0] = 1939.0
        assert watch.asked() is None
        clock[0] = 1941.0
        assert watch.asked() == "59 s are left of the time given"


def test_margin_grows_with_the_longest_step(clock):
    with Watch({"HPC_KIT_DEADLINE": "2000"}) as watch:
        for seconds in (3.0, 100.0, 5.0):
            watch.stepped(seconds)
        clock[0] = 1799.0
        assert watch.asked() is None
        clock[0] = 1801.0
        assert watch.asked() is not None


def test_earlier_of_two_deadlines_counts(clock):
    with Watch({"HPC_KIT_DEADLINE": "5000", "SLURM_JOB_END_TIME": "2000"}) as watch:
        clock[0] = 1999.0
        assert watch.asked()


def test_margin_leaves_half_of_a_short_time_to_work(clock):
    with Watch({"HPC_KIT_DEADLINE": "1060"}) as watch:
        watch.stepped(1e6)
        clock[0] = 1029.0
        assert watch.asked() is None
        clock[0] = 1031.0
        assert watch.asked()


def test_margin_is_bounded(clock):
    with Watch({"HPC_KIT_DEADLINE": "100000"}) as watch:
        watch.stepped(1e6)
        clock[0] = 100000 - preempt.MOST_MARGIN_S - 1
        assert watch.asked() is None


def test_signal_shortly_before_the_deadline_warns_of_it(clock):
    with Watch({"HPC_KIT_DEADLINE": "2000"}) as watch:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (watch.asked(), watch.cause) == ("SIGUSR1 was sent", "preempted")
        clock[0] = 1990.0
        assert (watch.asked(), watch.cause) == ("10 s are left of the time given", "time_limit")


def test_outside_the_main_thread_the_deadline_is_watched(clock):
    def watch_in_a_thread() -> str | None:
        with Watch({"HPC_KIT_DEADLINE": "2000"}) as watch:
            clock[0] = 1990.0
            return watch.asked()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(watch_in_a_thread).result() == "10 s are left of the time given"


def test_asking_costs_nothing():
    with Watch({"HPC_KIT_DEADLINE": str(time.time() + 1000)}) as watch:
        began = time.perf_counter()
        for _ in range(10000):
            watch.asked()
        assert time.perf_counter() - began < 1.0
