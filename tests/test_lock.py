"""A lock has one holder and dies with it."""

import subprocess
import sys

from hpc_kit.lock import Lock

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
