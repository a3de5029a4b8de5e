"""Fixtures: a PBS and a Cobalt that run jobs on this machine (standin.py), with their commands first on PATH.

They end with the test, and so do all their jobs. docs/testbed-standins.md says where they are simpler than real ones.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import standin

HERE = Path(__file__).resolve().parent
PYTHON = "HPC_KIT_STANDIN_PYTHON"  # what the commands run under
DEFAULTS = {"nodes": 4, "grace": 1.0, "speed": 1.0, "node_name": "localhost"}


@dataclass
class StandIn:
    """One running stand-in: `folder` holds its table, `inject` makes it fail, `wait` waits for its jobs."""

    folder: Path
    daemon: subprocess.Popen

    def inject(self, name: str, text: str = "") -> None:
        """Ask for a failure: fail-qstat, fail-qdel, refuse-submit, old-pbs last until `clear`; lose-job,
        node-failure, preempt and out-of-memory take the ids of jobs and happen once."""
        written = self.folder / f"{name}.new"
        written.write_text(text)
        written.rename(self.folder / name)

    def clear(self, name: str) -> None:
        (self.folder / name).unlink()

    def jobs(self) -> dict[str, dict]:
        """Return the job table by number, as the daemon sees it."""
        with standin.table(self.folder) as data:
            return data["jobs"]

    def configure(self, **values) -> None:
        """Change nodes, grace (seconds from SIGTERM to SIGKILL), speed (how much faster than the clock walltimes run
        out), node_name (what stands in the node file; None: each node's own name) and start anew."""
        self.stop()
        path = self.folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        self.daemon = _start(self.folder)

    def wait(self, ready: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait until `ready()` holds. Raises AssertionError with the job table when it does not in time."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert time.monotonic() < deadline, json.dumps(self.jobs(), indent=1)
            time.sleep(0.05)

    def stop(self) -> None:
        self.daemon.terminate()
        self.daemon.wait(20)


def start(folder: Path, dialect: str) -> StandIn:
    """Start a stand-in for `dialect` ("pbs" or "cobalt") in the empty `folder`."""
    for name in ("nodefiles", "scripts", "spool", "home"):
        (folder / name).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(DEFAULTS | {"dialect": dialect}))
    (folder / "jobs.json").write_text('{"next": 101, "jobs": {}}')
    return StandIn(folder, _start(folder))


def _start(folder: Path) -> subprocess.Popen:
    (folder / "ready").unlink(missing_ok=True)
    daemon = subprocess.Popen([sys.executable, str(HERE / "standin.py"), str(folder)])
    while not (folder / "ready").exists():
        assert daemon.poll() is None, "the stand-in did not start"
        time.sleep(0.01)
    return daemon


def _fixture(dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    folder = tmp_path / f"{dialect}-server"
    monkeypatch.setenv("PATH", f"{HERE / dialect}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(standin.FOLDER, str(folder))
    monkeypatch.setenv(PYTHON, sys.executable)
    running = start(folder, dialect)
    yield running
    running.stop()


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A PBS of four nodes: qsub, qstat, qselect, qdel."""
    yield from _fixture("pbs", tmp_path, monkeypatch)


@pytest.fixture
def cobalt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A Cobalt of four nodes: qsub, qstat, qdel."""
    yield from _fixture("cobalt", tmp_path, monkeypatch)
