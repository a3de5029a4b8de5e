"""From the values that a search tries to the training that tries them.

Not for: which values (optimizer.py), running a trial (child.py).
"""

from typing import Any

from pydantic import ValidationError

from hpc_kit.files import content_sha256
from hpc_kit.plan import Task, in_words
from hpc_kit.search.space import Values
from hpc_kit.spec.document import Document
from hpc_kit.spec.errors import InputError
from hpc_kit.train import job as training


def with_values(document: Document, values: Values, place: str) -> Document:
    """Return a job's document with a trial's values, as if written at `place`: a whole model before its keys."""
    for key in sorted(values, key=lambda key: key.count(".")):
        document = document.with_value(tuple(key.split(".")), values[key], place)
    return document


def trial_work(task: Task, values: Values) -> training.Work:
    """Return the training of a trial. Raises InputError where the values do not go together."""
    work = task.work
    base = {"data": work.data, "model": work.model, "train": work.train, "track": work.track}
    plain = {key: value.model_dump() for key, value in base.items() if value is not None}
    document = with_values(Document("trial", plain, {}), values, f"trial {in_words(values)}")
    job = document.check(_Trial)
    fields = {"dataset": work.dataset, "dataset_sha256": work.dataset_sha256, "units": work.units}
    return training.Work(**fields, data=job.data, model=job.model, train=job.train, track=job.track)


class _Trial(training.Job):
    """A training, by what is computed alone."""

    name: str = "trial"


def trial_task(task: Task, values: Values) -> Task:
    """Return the task of a trial of the search `task`. Raises InputError where the values do not go together.

    Its id ends in a hash of its content, as any task's: the same values are the same trial.
    """
    search, work = task.work.search, trial_work(task, values)
    seed = task.seed if search.trial_seed is None else search.trial_seed
    content = {"kind": "train", "seed": seed, **work.content()}
    digest = content_sha256(content)[:12]
    words = in_words(values)
    return Task(
        schema_version=task.schema_version,
        id=f"trial-seed{seed}-{digest}",
        label=f"{words} seed={seed}".strip(),
        kind="train",
        seed=seed,
        image=task.image,
        resources=task.resources.model_copy(update={"nodes": 1, "ranks_per_node": search.ranks_per_trial}),
        folders=work.folders(),
        cell=values,
        work=work,
    )


def trial_job(task: Task) -> training.Job:
    """Return the job that the trials of a search are made from, without their values: job.yaml of their run."""
    work = task.work
    plain: dict[str, Any] = {
        "name": "trials",
        "data": work.data.model_dump(),
        "model": work.model.model_dump(),
        "train": work.train.model_dump(),
        "seeds": [task.seed],
        "resources": task.resources.model_dump(),
    }
    try:
        return training.Job.model_validate(plain)
    except ValidationError as error:
        raise InputError(f"{task.id}: {error.errors()[0]['msg']}") from None
