"""What rank 0 writes down of a search as it goes: trials.jsonl, the run of its trials, progress.json, metrics.json.

Not for: reading it (records.py).
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from hpc_kit.files import append_line, drop_torn_line, write_json
from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.records import read_lines
from hpc_kit.search.records import ENDS, Trial, kind_of, read_trials, trials_file
from hpc_kit.search.results import read_search, write_csv
from hpc_kit.search.trial_run import TrialRun


class Journal:
    """The files of one search, for the process that holds its lock. `before`: the trials of earlier attempts."""

    def __init__(self, directory: TaskDir, task: Task):
        self._out, self._task, self._file = directory, task, trials_file(directory.path)
        self._budget, self._unit = task.work.search.trials, task.work.unit
        drop_torn_line(self._file)
        lines = read_lines(self._file)
        self.before: list[Trial] = read_trials(directory.path)
        self._losses = Counter((x["number"], kind_of(x["reason"])) for x in lines if x.get("state") == "lost")
        self._best: dict[str, Any] | None = None
        self.ended = 0
        for trial in self.before:
            if trial.state in ENDS:
                self._count(trial.objectives)
        ended = {trial.id: (trial.state, trial.reason) for trial in self.before if trial.state in ENDS}
        self._run = TrialRun(directory, task, ended)
        attempt = 1 + sum(line.get("event") == "manager" for line in lines)
        self._write({"event": "manager", "attempt": attempt})
        self._tell_progress()

    def asked(self, number: int, task: Task | None, values: dict[str, Any], by: str) -> None:
        """A trial is planned; one that no task can be made of has no directory."""
        if task is not None:
            self._run.add(task)
        self._write({"number": number, "event": "asked", "id": task.id if task else "", "values": values, "by": by})

    def started(self, number: int, task: Task, worker: int, host: str) -> tuple[Path, int]:
        """A trial begins or goes on; return its directory, and which attempt it is."""
        attempt = self._run.start(task.id, host)
        self._write({"number": number, "event": "started", "worker": worker, "host": host, "attempt": attempt})
        return self._run.run.task(task.id).path, attempt

    def curve(self, task: Task) -> list[float]:
        """Return the score of each epoch that a trial has behind it."""
        return [task.work.score(record) for record in self._run.run.task(task.id).read_epochs()]

    def end(
        self,
        number: int,
        task: Task | None,
        state: str,
        reason: str,
        objectives: dict[str, float] | None,
        epochs: int,
        twin: bool = False,
    ) -> None:
        """An attempt at a trial has ended; twin: another trial with the same values has, and stands for this one."""
        said = {"state": state, "reason": reason, "objectives": objectives, "epochs": epochs}
        self._write({"number": number, "event": "ended", **said})
        if state == "lost":
            self._losses[number, kind_of(reason)] += 1
        if task is not None and not twin:
            self._run.end(task.id, state, reason)
        if state in ENDS:
            self._count(objectives)
            self._tell_progress()

    def losses(self, number: int, reason: str) -> int:
        """Return how often a trial was lost for such a reason, in all attempts."""
        return self._losses[number, kind_of(reason)]

    def optimizer(self, asked: int, cpu_s: float, wall_s: float) -> None:
        """What the optimiser took."""
        self._write({"event": "optimizer", "asked": asked, "cpu_s": round(cpu_s, 4), "wall_s": round(wall_s, 4)})

    def workers(self, seconds: dict[str, float]) -> None:
        """What the workers of this attempt did with their time."""
        self._write({"event": "workers", **seconds})

    def beat(self) -> None:
        """Show other hosts that the search is at work."""
        self._run.beat()

    def close(self) -> None:
        self._run.close()

    def write_metrics(self) -> None:
        """Write metrics.json and search.csv of a search that has spent its budget."""
        write_csv(self._out)
        write_json(self._out.metrics, read_search(self._out, self._task).numbers())

    def _count(self, objectives: dict[str, float] | None) -> None:
        self.ended += 1
        if objectives is not None and (self._best is None or objectives["error"] < self._best["error"]):
            self._best = objectives

    def _tell_progress(self) -> None:
        score = self._best and {"name": "best val error", "value": self._best["error"], "unit": self._unit}
        self._out.write_progress(self.ended, self._budget, "trials", score)

    def _write(self, line: dict[str, Any]) -> None:
        append_line(self._file, {"time": round(time.time(), 3), **line})


class Clocks:
    """How long the workers of one attempt were "starting", "idle", "busy", or "spare", with nothing left to begin."""

    def __init__(self):
        self._states: dict[int, tuple[str, float]] = {}
        self.seconds: Counter[str] = Counter()

    def turn(self, rank: int, state: str | None) -> None:
        """A worker goes over into a state; None: it is gone."""
        now = time.monotonic()
        before, since = self._states.pop(rank, ("", now))
        if before:
            self.seconds[before] += now - since
        if state is not None:
            self._states[rank] = state, now

    def stop(self) -> dict[str, float]:
        """Return the seconds of all workers in each state."""
        for rank in list(self._states):
            self.turn(rank, None)
        return {f"{state}_s": round(self.seconds[state], 3) for state in ("starting", "idle", "busy", "spare")}
