"""The timed configurations of a run: what each computes, under which conditions, and the epochs of each of its runs.

A configuration is the tasks that differ in their seed alone; each of them is a run in the sense of statistics.py.
Trainings and benchmarks alike. Not for: holding them against each other (compare.py).
"""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpc_kit.bench import fitness
from hpc_kit.bench.fields import flatten
from hpc_kit.bench.metrics import LEAST_EPOCHS, counted, too_few
from hpc_kit.plan import Task
from hpc_kit.runs.fingerprint import SCHEMA, read_fingerprint
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.records import Fingerprint
from hpc_kit.runs.status import read_statuses
from hpc_kit.spec.errors import InputError

MEASURES = ("wall_s", "compute_s", "data_wait_s", "eval_s", "checkpoint_s", "cpu_s")
_NO_WORK = ("train.epochs",)  # how long, not what
_NO_CONDITIONS = ("work.data", "work.model", "work.train", "work.dataset_sha256")  # in the work already


@dataclass(frozen=True)
class TimedRun:
    """One task: seconds of each of its timed epochs in their order, the conditions it ran under, flattened as
    fields.py does, and why it is unfit, [] where it is not."""

    task: str
    seconds: list[float]
    conditions: dict[str, Any]
    unfit: list[str]


@dataclass(frozen=True)
class Configuration:
    """Runs of one piece of work. `work` is what must be equal for two timings to be of the same thing, dotted key ->
    value; `cell` the values of the job's grid; `missing` why runs that were to be there are not."""

    label: str
    work: dict[str, Any]
    cell: dict[str, Any]
    runs: list[TimedRun]
    missing: list[str]

    @property
    def key(self) -> str:
        return json.dumps(self.work, sort_keys=True)

    @property
    def unfit(self) -> list[str]:
        """Why runs of it are unfit, each with its task."""
        return [f"{run.task}: {reason}" for run in self.runs for reason in run.unfit]


def require_distinct(runs: Sequence[RunDir]) -> None:
    """Raise InputError where a run is named twice: it is no replicate of itself."""
    paths = [run.path.resolve() for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{run.path}: is named twice; a run says nothing of itself")


def read_configurations(run: RunDir, measure: str = "wall_s") -> list[Configuration]:
    """Return the configurations of a run, in its plan's order. `measure` is the field of epochs.jsonl that counts.

    Raises InputError where the run is of a kind without epochs, or a record is damaged or of another schema.
    """
    if measure not in MEASURES:
        raise InputError(f"--measure {measure}: must be one of {', '.join(MEASURES)}")
    plan = run.read_plan()
    found: dict[str, Configuration] = {}
    for task, status in zip(plan.tasks, read_statuses(run), strict=True):
        work = _work(task)
        if work is None:
            raise InputError(f"{run.path}: is of kind {task.kind!r}, which times no epochs; compare takes trainings"
                             " and benchmarks")  # fmt: skip
        one = found.setdefault(task.setting, Configuration(task.setting, work, task.cell, [], []))
        if status.state != "done":
            one.missing.append(": ".join(filter(None, (task.label, status.state, status.reason))))
            continue
        timed = _timed(run.task(task.id), task, measure)
        if isinstance(timed, str):
            one.missing.append(timed)
        else:
            one.runs.append(timed)
    return list(found.values())


def _work(task: Task) -> dict[str, Any] | None:
    """Return what a task computes in each epoch, as dotted keys; None where it has no epochs."""
    content = task.work.content()
    if not {"dataset", "data", "model", "train"} <= content.keys():
        return None
    fields = flatten({key: content[key] for key in ("dataset", "data", "model", "train")})
    ranks = task.resources.nodes * task.resources.ranks_per_node
    return {key: value for key, value in fields.items() if key not in _NO_WORK} | {"world_size": ranks}


def _timed(folder: TaskDir, task: Task, measure: str) -> TimedRun | str:
    """Return a finished task's timed epochs, or why there are none to be compared."""
    conditions = _conditions(folder, task)
    timed = counted(folder.read_epochs())
    here = [line for line in timed if line.get("fingerprint") in (conditions["sha256"], None)]
    known = [line for line in here if line.get(measure) is not None]
    if len(known) < LEAST_EPOCHS:
        lacking = f", those with {measure}" if len(known) < len(here) else ""
        return f"{task.label}: {too_few(len(known))}{lacking}"
    seconds = [float(line[measure]) for line in known]
    if min(seconds) <= 0:
        return f"{task.label}: has epochs with {measure} of 0, of which no ratio can be made"
    unfit = fitness.reasons(known, conditions["fields"].get("benchmark.cache"))
    if elsewhere := len(timed) - len(here):
        unfit.append(f"{elsewhere} of its {len(timed)} epochs were made under other conditions, and do not count")
    return TimedRun(task.label or task.id, seconds, conditions["fields"], unfit)


def read_conditions(folder: TaskDir) -> Fingerprint:
    """Return the fingerprint of a task that is done. Raises InputError where it is missing, changed or of another
    schema."""
    folder.verify(folder.fingerprint)
    record = read_fingerprint(folder.fingerprint)
    if record["schema_version"] != SCHEMA:
        raise InputError(
            f"{folder.fingerprint}: schema version {record['schema_version']}; this hpc_kit reads version {SCHEMA}."
            " Use the hpc_kit that made it, or run the job again"
        )
    return record


def _conditions(folder: TaskDir, task: Task) -> dict[str, Any]:
    record = read_conditions(folder)
    fields = dict(_flat(record["sha256"], json.dumps(record["comparable"])))
    fields |= {f"resources.{key}": value for key, value in task.resources.model_dump().items()}
    fields |= {"kind": task.kind, "host": record.get("observed", {}).get("host")}
    if "benchmark" in type(task.work).model_fields:
        fields["benchmark.cache"] = task.work.benchmark.cache
    return {"sha256": record["sha256"], "fields": fields}


@functools.lru_cache(maxsize=4096)
def _flat(sha256: str, comparable: str) -> dict[str, Any]:
    fields = flatten(json.loads(comparable))
    return {key: value for key, value in fields.items() if not key.startswith(_NO_CONDITIONS)}


def pairs(a: list[Configuration], b: list[Configuration]) -> Iterator[tuple[Configuration, Configuration | None]]:
    """Yield each configuration of A with the one of B that computes the same; None where B has none.

    Of several that compute the same, the one with the same values of a grid over resources.
    """
    by_work: dict[str, list[Configuration]] = {}
    for one in b:
        by_work.setdefault(one.key, []).append(one)
    twins = {one.key for one in a if sum(other.key == one.key for other in a) > 1}
    for one in a:
        same = by_work.get(one.key, [])
        if len(same) > 1 or one.key in twins:
            same = [other for other in same if _sizes(other) == _sizes(one)]
        yield one, same[0] if same else None


def other_work(a: Configuration, b: Configuration) -> list[str]:
    """Return what differs between two pieces of work, as "key: value of A | value of B"."""
    keys = [key for key in dict.fromkeys((*a.work, *b.work)) if a.work.get(key) != b.work.get(key)]
    return [f"{key}: {_shown(a.work.get(key))} | {_shown(b.work.get(key))}" for key in keys]


def _sizes(one: Configuration) -> dict[str, Any]:
    return {key: value for key, value in one.cell.items() if key.startswith("resources.")}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
