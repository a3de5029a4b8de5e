"""A lock has one holder and dies with it."""

import json
import os
import subprocess
import sys
import time

import pytest

from hpc_kit.lock import Lock
from hpc_kit.spec.errors import InputError

HOLD = "import sys, time; from pathlib import Path; from hpc_kit.lock import Lock\n"
HOLD += "print(Lock(Path(sys.argv[1])).acquire(), flush=True); time.sleep(60)"


def test_lock_has_one_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        lock = Lock(path)
        assert not lock.acquire() and lock.is_held()
        assert lock.holder()["pid"] == holder.pid
    finally:
        holder.kill()
        holder.wait()
    assert not lock.is_held() and lock.acquire()
    lock.release()


def test_looking_at_a_lock_never_keeps_another_from_it(tmp_path):
    """One process looks all the time; another takes the lock a thousand times, and is seen each time."""
    path = tmp_path / "lock"
    path.touch()
    look = "import sys; from pathlib import Path; from hpc_kit.lock import Lock\n"
    look += "lock = Lock(Path(sys.argv[1])); print('looks', flush=True)\nwhile True: lock.is_held()"
    watcher = subprocess.Popen([sys.executable, "-c", look, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout.readline() == "looks\n"
        for _ in range(1000):
            lock = Lock(path)
            assert lock.acquire()
            assert Lock(path).is_held() and not Lock(path).acquire()
            lock.release()
    finally:
        watcher.kill()
        watcher.wait()
    assert not Lock(path).is_held()


def test_lock_that_may_only_be_read_can_be_looked_at(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.path.chmod(0o444)
    assert Lock(lock.path).is_held()
    lock.release()
    assert not Lock(lock.path).is_held()


def elsewhere(path, beats=True):
    """Write a lock file as a holder on another host leaves it, whose kernel lock is not seen here."""
    path.write_text(json.dumps({"pid": 7, "host": "login9", "born": 1.0, "beats": beats}))


def test_holder_on_another_host_is_seen_by_its_sign_of_life(tmp_path):
    lock = Lock(tmp_path / "lock")
    elsewhere(lock.path)
    assert lock.is_held() and not lock.acquire()
    assert lock.holder()["host"] == "login9"


def test_holder_on_another_host_that_was_silent_for_long_is_gone(tmp_path):
    lock = Lock(tmp_path / "lock")
    elsewhere(lock.path)
    os.utime(lock.path, (time.time() - 300,) * 2)
    assert not lock.is_held() and lock.acquire()
    lock.release()


def test_holder_on_another_host_that_gave_it_back_is_gone_at_once(tmp_path):
    lock = Lock(tmp_path / "lock")
    elsewhere(lock.path, beats=False)
    assert lock.acquire()
    lock.release()


def test_age_is_measured_on_the_file_servers_clock(tmp_path, monkeypatch):
    lock = Lock(tmp_path / "lock")
    elsewhere(lock.path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)  # this host's clock is a day ahead
    assert lock.is_held()


def test_driver_that_was_taken_over_notices(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.beat()
    elsewhere(lock.path)
    with pytest.raises(InputError, match="process 7 on login9 has taken this over"):
        lock.beat()


def test_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("thesis")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="lock: cannot be opened for writing"):
        Lock(tmp_path / "lock").acquire()
    assert (tmp_path / "precious").read_text() == "thesis"
