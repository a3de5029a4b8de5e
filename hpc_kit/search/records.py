"""trials.jsonl of a search, its one reader: what became of each trial.

Lines are appended by rank 0 alone (journal.py). A trial is asked for, started once or several times, and ended; an
end as "interrupted" or "lost" is one of an attempt, and the trial waits again.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_kit.runs.records import Record, read_lines

ENDS = ("done", "pruned", "failed")


class Line(Record, total=False):
    """A line of trials.jsonl: what all have, and what those of one event have."""

    time: float
    event: str
    number: int
    id: str
    values: dict[str, Any]
    by: str
    worker: int
    host: str
    attempt: int
    state: str
    reason: str
    objectives: dict[str, float] | None
    epochs: int


@dataclass
class Trial:
    """One trial. `objectives` is {"error", "epoch_s"}, None where it has none; times are seconds of the epoch 1970;
    `busy_s` is how long workers were at it, all attempts together. `state`: waiting, running, or how
    it ended: done, pruned, failed."""

    number: int
    id: str
    values: dict[str, Any]
    by: str
    asked_at: float
    state: str = "waiting"
    reason: str = ""
    objectives: dict[str, float] | None = None
    started_at: float | None = None
    ended_at: float | None = None
    worker: int | None = None
    host: str = ""
    attempts: int = 0
    busy_s: float = 0.0
    epochs: int = 0
    begun_at: float | None = field(default=None, repr=False)  # of the attempt under way

    @property
    def error(self) -> float | None:
        return None if self.objectives is None else self.objectives["error"]


def trials_file(folder: Path) -> Path:
    """Return trials.jsonl of the search in a task's folder."""
    return folder / "trials.jsonl"


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of trials.jsonl as they are, those of the optimiser and the manager too."""
    return read_lines(trials_file(folder), Line)


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of the search in a task's folder, in the order in which they were asked for."""
    trials: dict[int, Trial] = {}
    for line in read_events(folder):
        match line.get("event"):
            case "asked":
                trials[line["number"]] = Trial(line["number"], line["id"], line["values"], line["by"], line["time"])
            case "started":
                trial = trials[line["number"]]
                trial.state, trial.worker, trial.host = "running", line["worker"], line["host"]
                trial.attempts += 1
                trial.begun_at = line["time"]
                trial.started_at = trial.started_at or line["time"]
            case "ended":
                _end(trials[line["number"]], line)
    return list(trials.values())


def _end(trial: Trial, line: dict[str, Any]) -> None:
    if trial.begun_at is not None:
        trial.busy_s += line["time"] - trial.begun_at
        trial.begun_at = None
    trial.epochs = line["epochs"] if line["epochs"] is not None else trial.epochs
    trial.reason = line["reason"]
    if line["state"] in ENDS:
        trial.state, trial.objectives, trial.ended_at = line["state"], line["objectives"], line["time"]
    else:
        trial.state = "waiting"


def kind_of(reason: str) -> str:
    """Return what reasons of one kind begin with: "out of memory", of "out of memory: the kernel ended it"."""
    return reason.partition(":")[0]
