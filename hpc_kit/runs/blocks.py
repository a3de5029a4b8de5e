"""blocks.jsonl: every block that a run has asked its scheduler for, and what the scheduler said became of it."""

import time
from dataclasses import dataclass
from typing import Any

from hpc_kit.files import append_line, drop_torn_line
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import BlockLine, read_lines


@dataclass
class BlockEntry:
    """One block. `job` is the scheduler's id, None where the driver died before it learnt it; `hourly` what an hour
    of it costs in the site's unit and `slots` how many tasks share that; `elapsed_s` what the scheduler counts as
    used.
    """

    name: str
    job: str | None = None
    state: str = "asked"
    evidence: str = ""
    hourly: float | None = None
    slots: int = 1
    elapsed_s: float | None = None

    @property
    def open(self) -> bool:
        """Whether it may still be in the queue."""
        return self.state in ("asked", "queued")

    @property
    def charge(self) -> float | None:
        """What it cost, in the site's unit; None where accounting does not tell or the site charges nothing."""
        return None if None in (self.hourly, self.elapsed_s) else self.hourly * self.elapsed_s / 3600


class BlockLog:
    """The blocks of one run, in order, replayed on opening and kept in step with what is appended."""

    def __init__(self, run: RunDir):
        self._path = run.blocks
        self.blocks: dict[str, BlockEntry] = {}
        for line in read_lines(self._path, BlockLine):
            self._apply(line)

    def repair(self) -> None:
        """Cut off a line that a killed driver left half-written."""
        drop_torn_line(self._path)

    def by_job(self, job: str | None) -> BlockEntry | None:
        """Return the block that the scheduler knows as `job`."""
        return next((block for block in self.blocks.values() if job is not None and block.job == job), None)

    def ask(self, name: str, hourly: float | None, slots: int) -> None:
        """Write down that a block is about to be asked for, before it is: a killed driver leaves its name."""
        self._append({"block": name, "state": "asked", "hourly": hourly, "slots": slots})

    def queued(self, name: str, job: str) -> None:
        """Write down the id by which the scheduler knows a block."""
        self._append({"block": name, "state": "queued", "job": job})

    def ended(self, name: str, state: str, evidence: str, elapsed_s: float | None = None) -> None:
        """Write down how a block ended, by what the scheduler said."""
        self._append({"block": name, "state": state, "evidence": evidence, "elapsed_s": elapsed_s})

    def _append(self, line: dict[str, Any]) -> None:
        line = {"time": round(time.time(), 3), **{key: value for key, value in line.items() if value is not None}}
        append_line(self._path, line)
        self._apply(line)

    def _apply(self, line: BlockLine | dict[str, Any]) -> None:
        block = self.blocks.setdefault(line["block"], BlockEntry(line["block"]))
        for key in ("job", "state", "evidence", "hourly", "slots", "elapsed_s"):
            if key in line:
                setattr(block, key, line[key])
