"""The best trial of a search as a job of its own: the same training, or the same with fresh seeds; and what those
repeats say of its first score."""

import statistics
from collections.abc import Sequence
from typing import Any

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.search.records import Trial
from hpc_kit.search.results import Search
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.yaml_text import write_yaml
from hpc_kit.text import in_unit

NAME_LENGTH = 64


class Metrics(Record):
    """metrics.json of a training, as far as it is read here."""

    best_val_score: float


def winner(searches: Sequence[Search]) -> tuple[Search, Trial, int]:
    """Return the best trial of all, with its search, and of how many that ended it is the best.

    Raises InputError where none was done, or where the searches have other data or targets, so that their errors are
    not of one kind.
    """
    kinds = {(s.task.work.dataset_sha256, s.target, s.task.work.data.split.model_dump_json()) for s in searches}
    if len(kinds) > 1:
        raise InputError("the searches have different data, targets or splits: choose one by --task")
    found = [(search, search.best) for search in searches if search.best is not None]
    if not found:
        raise InputError("no trial is done yet")
    search, trial = min(found, key=lambda pair: pair[1].error)
    return search, trial, sum(len(search.ended) for search in searches)


def job_of(search: Search, trial: Trial, name: str, of: int, seeds: Sequence[int] | None = None) -> str:
    """Return a job file that trains what `trial`, the best of so many, did, all values written out, with its seed or
    `seeds`. Raises InputError where the trial's directory is gone."""
    task = task_of(search, trial)
    work = task.work
    data = work.data.model_dump()
    if work.data.source == "shards":
        data["path"] = work.dataset
    fields = {
        "name": f"{name[: NAME_LENGTH - 5]}-best",
        "kind": "train",
        "data": data,
        "model": work.model.model_dump(),
        "train": work.train.model_dump(),
        **({"track": work.track.model_dump()} if work.track else {}),
        "seeds": list(seeds) if seeds else [task.seed],
        "resources": task.resources.model_dump(),
        "image": search.task.image,
    }
    error = in_unit(trial.error, search.unit)
    lines = [
        f"# Trial {trial.number} of {search.task.id}: error {error} with seed {task.seed}, the best of {of} trials.",
        f"# Data set sha256 {work.dataset_sha256}.",
    ]
    if seeds:
        lines.append("# Fresh seeds: the best of many trials was lucky too, and these say how much.")
    return "\n".join([*lines, write_yaml(fields)])


def task_of(search: Search, trial: Trial) -> Task:
    """Return the trial's task as it was run. Raises InputError."""
    return search.trials_run.task(trial.id).read_task()


def fresh_seeds(searches: Sequence[Search], count: int) -> list[int]:
    """Return `count` seeds that no search and no trial of it had."""
    used = {search.task.seed for search in searches}
    used |= {task_of(search, search.best).seed for search in searches if search.best}
    return [max(used) + 1 + n for n in range(count)]


def repeats(search: Search, trial: Trial, of: int, run: RunDir) -> dict[str, Any]:
    """Return how the first error of `trial`, the best of so many, compares with those of `run`, trainings of the same
    with other seeds.

    Raises InputError where `run` is no such run, or none of it is done.
    """
    first = task_of(search, trial)
    plan = run.read_plan()
    content = first.work.content()
    same = [task for task in plan.tasks if task.kind == "train" and task.work.content() == content]
    if not same:
        raise InputError(
            f"{run.path}: trains something else than trial {trial.number} of {search.task.id}; 'hpc_kit search RUN"
            " --best FILE --repeat 5' writes the job for it"
        )
    others = [task for task in same if task.seed != first.seed and run.task(task.id).is_done()]
    if not others:
        raise InputError(f"{run.path}: no training with another seed than the trial's {first.seed} is done yet")
    errors = [run.task(task.id).read_metrics(Metrics)["best_val_score"] for task in others]
    return luck(trial.error, errors, search.unit, of)


def luck(first: float, errors: Sequence[float], unit: str, trials: int) -> dict[str, Any]:
    """Return what repeats say of the first error of the best of `trials` trials, with a sentence."""
    mean = statistics.mean(errors)
    deviation = statistics.stdev(errors) if len(errors) > 1 else None
    lower = sum(first < error for error in errors)
    spread = f" ± {in_unit(deviation, unit, '.2g')}" if deviation is not None else ""
    said = (
        f"The best of {trials} trials had {in_unit(first, unit)}; {len(errors)} repeats with fresh seeds have"
        f" {in_unit(mean, unit)}{spread}, and {lower} of the {len(errors)} are worse than it was."
    )
    if mean > first:
        said += f" Expect the repeats' error: {in_unit(mean - first, unit)} of the first was luck of the choice."
    return {
        "first": first,
        "repeats": list(errors),
        "mean": mean,
        "std": deviation,
        "unit": unit,
        "worse_than_first": lower,
        "sentence": said,
    }
