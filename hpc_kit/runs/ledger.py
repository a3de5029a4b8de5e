"""The ledger: an append-only file that says what became of each attempt at each task, and why.

A task's state is that of its last attempt. Within one attempt a terminal state is the last one: a later line
for the same attempt is refused. "preempted" is not terminal: the task waits for its next attempt.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_kit.files import append_line, drop_torn_line, read_lines

TERMINAL = ("done", "failed", "cancelled", "lost")


@dataclass
class Entry:
    """What the ledger knows of one task."""

    state: str = "planned"
    attempt: int = 0
    reason: str = ""
    exit_code: int | None = None
    history: list[str] = field(default_factory=list)


class Ledger:
    """The ledger of one run, replayed on opening and kept in step with what is appended."""

    def __init__(self, path: Path, task_ids: list[str]):
        self.path = path
        self.tasks = {task_id: Entry() for task_id in task_ids}
        for line in read_lines(path):
            self._apply(line)

    @staticmethod
    def repair(path: Path) -> None:
        """Cut off a line that a killed driver left half-written. For the driver that holds the run's lock."""
        drop_torn_line(path)

    def submit(self, task_id: str) -> int:
        """Record a new attempt at a task and return its number, from 1."""
        self._append(task_id, "submitted", attempt=self.tasks[task_id].attempt + 1)
        return self.tasks[task_id].attempt

    def start(self, task_id: str) -> None:
        """Record that the current attempt's process runs."""
        self._append(task_id, "started", attempt=self.tasks[task_id].attempt)

    def end(self, task_id: str, state: str, reason: str = "", exit_code: int | None = None) -> None:
        """Record how the current attempt ended; state is one of TERMINAL, or "preempted"."""
        self._append(task_id, state, attempt=self.tasks[task_id].attempt, reason=reason, exit_code=exit_code)

    def _append(self, task_id: str, state: str, **more: Any) -> None:
        line = {"time": round(time.time(), 3), "task": task_id, "state": state, **more}
        self._apply(line)
        append_line(self.path, line)

    def _apply(self, line: dict[str, Any]) -> None:
        entry = self.tasks.setdefault(line["task"], Entry())
        if entry.state in TERMINAL and line["attempt"] <= entry.attempt:
            raise ValueError(f"attempt {entry.attempt} of {line['task']} already ended as {entry.state}")
        entry.state, entry.attempt = line["state"], line["attempt"]
        entry.reason, entry.exit_code = line.get("reason", ""), line.get("exit_code")
        entry.history.append(line["state"])
