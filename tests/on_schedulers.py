"""What the tests on schedulers share: a run on a site, watched from outside as a user would.

Most runs are probes, tasks that count: they start in a blink, and their logs tell whether a step was lost or done
twice. A few train, and must have the losses of a training that nothing has disturbed.
"""

import functools
import json
import re
import tempfile
import time
from pathlib import Path

import pytest
from conftest import PROBE, SMALL, hpc_kit, set_options, start_hpc_kit

from hpc_kit.runs.records import read_lines

SITE = Path(__file__).parent / "testbed" / "site.yaml"


class SiteRun:
    """One run, driven by a process of its own."""

    def __init__(self, folder: Path, site: Path = SITE, name: str = "run"):
        self.folder, self.path, self._site = folder, folder / name, site
        self.driver = None

    def train(self, *overrides: str, partition: str | None = None) -> "SiteRun":
        return self._submit("quickstart", [*SMALL, *overrides], partition)

    def probe(self, *overrides: str, partition: str | None = None) -> "SiteRun":
        return self._submit("probe", [*PROBE, *overrides], partition)

    def _submit(self, job: str, overrides: list[str], partition: str | None) -> "SiteRun":
        words = ["submit", "--site", self._site, job, "--run", self.path]
        words += ["--partition", partition] if partition else []
        self.driver = start_hpc_kit(*words, *set_options(overrides), cwd=self.folder)
        return self

    def resume(self, *more: str) -> "SiteRun":
        self.driver = start_hpc_kit("resume", self.path, *more, cwd=self.folder)
        return self

    def end(self, code: int = 0, seconds: float = 150.0) -> None:
        """Wait for the driver and check its exit code."""
        assert self.driver.wait(seconds) == code, (self.folder / "driver.log").read_text() + str(self.ledger())

    def ledger(self) -> list[dict]:
        return read_lines(self.path / "ledger.jsonl")

    def blocks(self) -> list[dict]:
        return read_lines(self.path / "blocks.jsonl")

    def ends(self) -> list[dict]:
        """Return the ledger's lines that say how an attempt ended."""
        return [line for line in self.ledger() if line["state"] not in ("submitted", "started")]

    def job(self) -> str:
        """Wait until a task runs, and return the scheduler's id of its block."""
        lines = self.until(lambda: [line for line in self.ledger() if line["state"] == "started"], "a start")
        return lines[-1]["job"]

    def progress(self) -> int:
        """Return how many epochs or steps all tasks have done."""
        return sum(json.loads(path.read_text())["done"] for path in self.path.glob("tasks/*/progress.json"))

    def until(self, condition, what: str, seconds: float = 90.0):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            text = (self.folder / "driver.log").read_text() if (self.folder / "driver.log").exists() else ""
            assert time.monotonic() < deadline, f"{what} did not come within {seconds} s\n{text}{self.ledger()}"
            time.sleep(0.1)
        return value

    def until_further(self, by: int = 2) -> None:
        before = self.progress()
        self.until(lambda: self.progress() >= before + by, f"{by} epochs or steps")

    def losses(self) -> dict[str, list[float]]:
        """Return the training losses of every task, in the order of epochs; each epoch must be there once."""
        found = {}
        for path in self.path.glob("tasks/*/epochs.jsonl"):
            lines = read_lines(path)
            assert [line["epoch"] for line in lines] == list(range(len(lines))), path
            found[path.parent.name] = [line["train_loss"] for line in lines]
        return found

    def done_once(self) -> None:
        """Check that every task is done, by exactly one attempt."""
        done = [line["task"] for line in self.ends() if line["state"] == "done"]
        tasks = [task["id"] for task in json.loads((self.path / "plan.json").read_text())["tasks"]]
        assert sorted(done) == sorted(tasks)
        assert all((self.path / "tasks" / task / "done.json").exists() for task in tasks)

    def counted_once(self) -> None:
        """Check that probes went on where they had been: no step was done twice, and none left out."""
        self.done_once()
        for log in self.path.glob("tasks/*/log.txt"):
            steps = [int(number) for number in re.findall(r"^step (\d+)/", log.read_text(), re.MULTILINE)]
            ends = [end for end in self.ends() if end["task"] == log.parent.name]
            assert steps == sorted(set(steps)), log
            # The count is on disk before it is in the log: a kill may come in between.
            assert steps[-1] - len(steps) < len(ends) and steps[-1] == self._total(log.parent), log

    def _total(self, task: Path) -> int:
        return json.loads((task / "progress.json").read_text())["total"]


def undisturbed(*overrides: str) -> dict[str, list[float]]:
    """Return the losses of the same tasks, trained here without a scheduler; resources change none of them."""
    return _alone(*(text for text in overrides if not text.startswith("resources.")))


@functools.cache
def _alone(*overrides: str) -> dict[str, list[float]]:
    """Train once for all tests that want the same."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "quickstart", "--run", "undisturbed", *set_options([*SMALL, *overrides])]
        out = hpc_kit(*words, cwd=Path(folder))
        assert out.returncode == 0, out.stderr
        return SiteRun(Path(folder), name="undisturbed").losses()


def same(losses: dict[str, list[float]], others: dict[str, list[float]], exactly: bool = True) -> None:
    """Check that tasks have the same losses: to the last bit, or up to the order of sums over ranks."""
    assert losses.keys() == others.keys()
    for task in losses:
        assert losses[task] == (others[task] if exactly else pytest.approx(others[task], rel=1e-4))
