"""The ledger: an append-only file that says what became of each attempt at each task, and why.

A task's state is that of its last attempt. `again` on an end says that the driver starts the task once more by
itself; after an end without it, a later line for the same attempt is refused. So an end never changes: where what it
says does not hold any more (done, and its done.json is gone), a new attempt follows, and says why.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_kit.files import append_lines, drop_torn_line
from hpc_kit.runs.records import LedgerLine, read_lines, skipped

ENDS = ("done", "failed", "out_of_memory", "time_limit", "node_failure", "preempted", "cancelled", "lost")


@dataclass
class Entry:
    """What the ledger knows of one task: its last attempt, and how the one `before` ended."""

    state: str = "planned"
    attempt: int = 0
    reason: str = ""
    hint: str = ""
    exit_code: int | None = None
    again: bool = False
    before: str = ""

    @property
    def ended(self) -> bool:
        """Whether this is final for this drive: the last attempt is over, and no other follows by itself."""
        return self.state in ENDS and not self.again


class Ledger:
    """The ledger of one run, replayed on opening and kept in step with what is appended."""

    def __init__(self, path: Path, task_ids: list[str]):
        self.path = path
        self.tasks = {task_id: Entry() for task_id in task_ids}
        for line in read_lines(path, LedgerLine):
            try:
                self._apply(line)
            except ValueError as error:
                skipped(f"{path}: {error}, and a later line says {line['state']}; the line is left out")

    @staticmethod
    def repair(path: Path) -> None:
        """Cut off a line that a killed driver left half-written. For the driver that holds the run's lock."""
        drop_torn_line(path)

    def submit(self, task_ids: Iterable[str], reason: str = "") -> None:
        """Record a new attempt at each of the tasks, with the reason where one is needed; attempts count from 1."""
        why = {"reason": reason} if reason else {}
        self._append(
            [
                {"task": name, "state": "submitted", "attempt": self.tasks[name].attempt + 1, **why}
                for name in task_ids
            ]
        )

    def start(self, task_id: str, where: dict[str, Any]) -> None:
        """Record that the current attempt's process runs, and `where`: its host and the scheduler's job."""
        self._append([{"task": task_id, "state": "started", "attempt": self.tasks[task_id].attempt, **where}])

    def end(
        self,
        task_id: str,
        state: str,
        reason: str = "",
        exit_code: int | None = None,
        again: bool = False,
        hint: str = "",
        evidence: str = "",
    ) -> None:
        """Record how the current attempt ended: `state` is one of ENDS, `reason` why, `evidence` who says so in its
        own words, `hint` what the user may do, `again` whether it is started once more."""
        line = {"task": task_id, "state": state, "attempt": self.tasks[task_id].attempt, "reason": reason}
        more = {"exit_code": exit_code, "again": again, "hint": hint, "evidence": evidence}
        self._append([line | {key: value for key, value in more.items() if value not in (None, False, "")}])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        now = round(time.time(), 3)
        lines = [{"time": now, **line} for line in lines]
        for line in lines:
            self._apply(line)
        append_lines(self.path, lines)

    def _apply(self, line: LedgerLine | dict[str, Any]) -> None:
        entry = self.tasks.setdefault(line["task"], Entry())
        if entry.ended and line["attempt"] <= entry.attempt:
            raise ValueError(f"attempt {entry.attempt} of {line['task']} already ended as {entry.state}")
        if entry.state in ENDS and line["attempt"] > entry.attempt:
            entry.before = f"{entry.state}: {entry.reason}" if entry.reason else entry.state
        entry.state, entry.attempt = line["state"], line["attempt"]
        entry.reason, entry.hint = line.get("reason", ""), line.get("hint", "")
        entry.exit_code, entry.again = line.get("exit_code"), line.get("again", False)
