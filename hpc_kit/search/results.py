"""What came of one search, from its records: the trials, the best, the Pareto set, how busy the workers were, and the
table search.csv. The login side; records.py reads the files."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc_kit.bench import pareto
from hpc_kit.files import atomic_path
from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir, TaskDir, task_directory
from hpc_kit.search.records import ENDS, Trial, kind_of, read_events, read_trials
from hpc_kit.search.space import Range, Space

TABLE = "search.csv"
TRIALS = "trials"
COLUMNS = (
    *("search", "strategy", "seed", "number", "id", "by", "state", "reason", "error", "unit", "epoch_s", "epochs"),
    *("attempts", "asked_at", "started_at", "ended_at", "busy_s", "worker", "host"),
)


@dataclass(frozen=True)
class Search:
    """One search: its task, its directory, its trials by number, and the lines of trials.jsonl."""

    task: Task
    folder: TaskDir
    trials: list[Trial]
    events: list[dict[str, Any]]

    @property
    def label(self) -> str:
        return self.task.label

    @property
    def unit(self) -> str:
        """The unit of the error."""
        return self.task.work.unit

    @property
    def target(self) -> str:
        return ", ".join(self.task.work.data.target)

    @property
    def strategy(self) -> str:
        return self.task.work.search.strategy

    @cached_property
    def space(self) -> Space:
        return self.task.work.space()

    @property
    def trials_run(self) -> RunDir:
        """The run directory of the trials."""
        return RunDir(self.folder.path / TRIALS)

    @property
    def keys(self) -> list[str]:
        """All keys that the search varies, whichever of them a trial has."""
        return list(dict.fromkeys(_columns(self.space)))

    @property
    def log_keys(self) -> list[str]:
        """The keys that are searched on a logarithmic scale."""
        ranges = [one for one in self.space.parameters if isinstance(one.domain, Range)]
        return list(dict.fromkeys(one.key for one in ranges if one.domain.prior.startswith("log")))

    @cached_property
    def ended(self) -> list[Trial]:
        """The trials that have ended, in the order in which they did."""
        return sorted((trial for trial in self.trials if trial.state in ENDS), key=lambda trial: trial.ended_at)

    @cached_property
    def done(self) -> list[Trial]:
        """The trials that were done with a finite error, in the order in which they ended."""
        return [trial for trial in self.ended if _counts(trial)]

    @property
    def best(self) -> Trial | None:
        return min(self.done, key=lambda trial: trial.error, default=None)

    @property
    def states(self) -> dict[str, int]:
        return dict(Counter(trial.state for trial in self.trials).most_common())

    @property
    def failures(self) -> dict[str, list[Trial]]:
        """Kind of reason -> the trials that failed for it, the commonest first."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.state == "failed":
                found.setdefault(kind_of(trial.reason), []).append(trial)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    @property
    def pareto(self) -> list[Trial]:
        """The trials of which no other has both a lower error and a shorter epoch; [] with one objective."""
        return front(self.done) if len(self.task.work.search.objectives) > 1 else []

    def errors(self, budget: int) -> list[float]:
        """Return the errors of those done among the first `budget` trials that ended."""
        return [trial.error for trial in self.ended[:budget] if _counts(trial)]

    def best_so_far(self, budget: int) -> list[float]:
        """Return the least error after each of the first `budget` trials that ended; inf before any was done."""
        best, found = math.inf, []
        for trial in self.ended[:budget]:
            if _counts(trial):
                best = min(best, trial.error)
            found.append(best)
        return found

    def end_times(self, budget: int) -> list[float]:
        """Return when each of the first `budget` trials ended, in seconds of work since the search began."""
        return [self._worked_until(trial.ended_at) for trial in self.ended[:budget]]

    @property
    def wall_s(self) -> float:
        """Seconds that the search worked, over all its attempts; the times between them do not count."""
        return self._worked_until(math.inf)

    @cached_property
    def _attempts(self) -> list[tuple[float, float]]:
        """When each attempt began, and when its last line was written."""
        spans: list[list[float]] = []
        for event in self.events:
            if event["event"] == "manager" or not spans:
                spans.append([event["time"], event["time"]])
            spans[-1][1] = max(spans[-1][1], event["time"])
        return [(start, end) for start, end in spans]

    def _worked_until(self, time: float) -> float:
        return sum(max(0.0, min(time, end) - start) for start, end in self._attempts)

    @property
    def workers(self) -> int:
        """How many workers trials were given to."""
        return len({event["worker"] for event in self.events if event["event"] == "started"})

    @property
    def idle(self) -> float | None:
        """The share of their time that workers waited for a trial while there were some to begin, by what each
        attempt says when it ends; None before."""
        told = [event for event in self.events if event["event"] == "workers"]
        idle, busy = (sum(event[key] for event in told) for key in ("idle_s", "busy_s"))
        return idle / (idle + busy) if idle + busy else None

    @property
    def optimizer_s(self) -> float | None:
        """Processor seconds of the optimiser for each trial that it proposed; None where it has not said."""
        told = [event for event in self.events if event["event"] == "optimizer"]
        asked = sum(event["asked"] for event in told)
        return sum(event["cpu_s"] for event in told) / asked if asked else None

    def numbers(self) -> dict[str, Any]:
        """Return what came of the search so far: metrics.json, and what `report` says of it."""
        best, found = self.best, None
        if best is not None:
            found = {"number": best.number, "id": best.id, "values": flat(best.values)}
            found |= {"error": best.error, "unit": self.unit}
        return {
            "best": found,
            "trials": len(self.trials),
            "states": self.states,
            "reasons": {kind: len(trials) for kind, trials in self.failures.items()},
            "pareto": [trial.number for trial in self.pareto],
            "worker_idle": self.idle,
            "optimizer_cpu_s": self.optimizer_s,
            "wall_s": self.wall_s,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a trial with every column, empty ones as None."""
        found = []
        for trial in self.trials:
            objectives, values = trial.objectives or {}, flat(trial.values)
            row = {
                "search": self.task.id,
                "strategy": self.strategy,
                "seed": self.task.seed,
                "error": objectives.get("error"),
                "unit": self.unit,
                "epoch_s": objectives.get("epoch_s"),
            }
            row |= {name: getattr(trial, name) for name in COLUMNS if name not in row}
            found.append({name: row[name] for name in COLUMNS} | {key: values.get(key) for key in self.keys})
        return found


def read_search(folder: TaskDir, task: Task | None = None) -> Search:
    """Read what there is of a search so far. Raises InputError where a record is damaged."""
    return Search(task or folder.read_task(), folder, read_trials(folder.path), read_events(folder.path))


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values by dotted key; a whole model's keys stand each for itself: model.name, model.hidden."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _columns(space: Space) -> Iterator[str]:
    for parameter in space.parameters:
        if parameter.key == "model":
            yield from (f"model.{name}" for model in parameter.domain.values for name in model)
        else:
            yield parameter.key


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return those of `trials`, of several searches too, that no other beats in both objectives, by error."""
    timed = {place: trial for place, trial in enumerate(trials) if trial.objectives["epoch_s"] is not None}
    return [timed[place] for place in pareto.front({n: (t.error, t.objectives["epoch_s"]) for n, t in timed.items()})]


def write_csv(folder: TaskDir | Path) -> Path:
    """Write search.csv into the task's directory, whatever trials there are; return its path. Raises InputError,
    OSError."""
    folder = folder if isinstance(folder, TaskDir) else task_directory(folder)
    path = folder.path / TABLE
    write_table([read_search(folder)], path)
    return path


def write_table(searches: Sequence[Search], path: Path) -> int:
    """Write the trials of `searches` as CSV and return how many rows there are. Every column is there, those of all
    keys that are searched too, also where no trial has a value."""
    columns = list(dict.fromkeys([*COLUMNS, *(key for search in searches for key in search.keys)]))
    rows = [row for search in searches for row in search.rows()]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: _cell(value) for name, value in row.items()})
    return len(rows)


def _cell(value: Any) -> Any:
    """Return a value as CSV has it: lists and objects as JSON, nothing as an empty cell."""
    return json.dumps(value) if isinstance(value, dict | list | tuple) else "" if value is None else value


def _counts(trial: Trial) -> bool:
    """Tell whether a trial was done with a finite error."""
    return trial.state == "done" and trial.error is not None and math.isfinite(trial.error)
