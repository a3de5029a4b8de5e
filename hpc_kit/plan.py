"""Turns a job into tasks: every cell of the grid times every seed, each with an id made of its content.

Not for: what a task of one kind does (the rooms, kinds.py), or where and when tasks run (submit.py).
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, model_validator

from hpc_kit import kinds, machine
from hpc_kit.files import content_sha256
from hpc_kit.spec.document import Document
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import image_file
from hpc_kit.spec.job import Job, JobFile, Resources

SCHEMA = 2
Varied = Iterator[tuple[Job, Document]]  # the jobs that a grid makes of one, each with the document it stands in


class Work(BaseModel):
    """What one task does, fully resolved; each room has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    outlives_ranks: ClassVar[bool] = False  # whether it goes on where a rank other than 0 dies

    def content(self) -> dict[str, Any]:
        """Return what is computed, without where files lie: a task's id ends in a hash of it."""
        return self.model_dump()

    def folders(self) -> list[str]:
        """Return the folders and files outside the run that are read or written."""
        return []

    def amount(self) -> tuple[int, str]:
        """Return how much there is to do, and of what: (100, "epochs")."""
        return 0, ""

    def notes(self) -> list[str]:
        """Return what the user should know before this runs, and may have meant so."""
        return []

    def title(self) -> str:
        """Return what a task is called that no grid and no seed tells from others."""
        return ""


class Task(BaseModel):
    """One fully resolved piece of a job: an envelope around `work`; task.yaml holds exactly this.

    `id` ends in a hash of what is computed: kind, seed and the content of `work`, with the data set named by its
    sha256, and files of splits and weights likewise. Resources, image and the job's name are not part of the hash:
    they say where, not what; but those that the job's grid varies are. `folders` are those outside the run that the
    task reads or writes, `cell` holds the values of the job's grid that this task has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    id: str
    label: str
    kind: str
    seed: int
    image: str | None
    resources: Resources
    folders: list[str]
    cell: dict[str, Any]
    work: SerializeAsAny[Work]

    @property
    def setting(self) -> str:
        """The label without the seed: tasks of one setting differ in their seed alone."""
        return self.label.removesuffix(f"seed={self.seed}").strip()

    @model_validator(mode="before")
    @classmethod
    def _work_of_its_kind(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or isinstance(fields.get("work"), Work):
            return fields
        kind = fields.get("kind")
        if kind not in kinds.ROOMS:
            raise ValueError(f"no kind of task is called {kind!r}")
        try:
            return fields | {"work": kinds.login_side(kind).Work.model_validate(fields.get("work"))}
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"work.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class Plan(BaseModel):
    """The tasks of a run; plan.json holds exactly this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    name: str
    tasks: list[Task]

    @property
    def kind(self) -> str:
        return self.tasks[0].kind

    def by_resources(self) -> list["Plan"]:
        """Return a plan for each of the resources that tasks take, of the tasks that take them, smallest first: a
        block is made for tasks of one size."""
        parts: dict[str, list[Task]] = {}
        for task in sorted(self.tasks, key=lambda task: task.resources.size):
            parts.setdefault(task.resources.model_dump_json(), []).append(task)
        return [self.model_copy(update={"tasks": tasks}) for tasks in parts.values()]

    @property
    def notes(self) -> list[str]:
        """What the user should know before anything runs, each once."""
        return list(dict.fromkeys(note for task in self.tasks for note in task.work.notes()))


Works = Iterator[tuple[Job, Work]]


def make_plan(file: JobFile) -> Plan:
    """Expand the grid and the seeds of a job. Raises InputError naming the key that gives an invalid task."""
    job = file.job
    cells = [dict(zip(job.grid, values, strict=True)) for values in itertools.product(*job.grid.values())]
    tasks: dict[str, Task] = {}
    works = kinds.login_side(job.kind).works(_varied(file, cell) for cell in cells)
    for cell, (varied, work) in zip(cells, works, strict=True):
        for seed in varied.seeds:
            task = _task(varied, cell, seed, work)
            if task.id in tasks:
                raise file.document.error(("grid",), f"gives the task {task.label!r} twice")
            tasks[task.id] = task
    return Plan(schema_version=SCHEMA, name=job.name, tasks=list(tasks.values()))


def _varied(file: JobFile, cell: dict[str, Any]) -> tuple[Job, Document]:
    """Return the job with the values of one cell of its grid, as if they had been written in it."""
    document = file.document
    for key, value in cell.items():
        place = f"{file.document.place(('grid', key))}: grid {key}={value}"
        document = document.with_value(tuple(key.split(".")), value, place)
    if not cell:
        return file.job, document
    try:
        return document.check(type(file.job)), document
    except InputError as error:
        hint = ""
        if "model.name" in cell:
            hint = "; keys differ by model: vary whole ones, as in grid: {model: [{name: schnet}, {name: physnet}]}"
        raise InputError(f"{error} (in the grid's cell {in_words(cell)}{hint})") from None


def in_words(cell: dict[str, Any]) -> str:
    """Return a cell as its tasks' label has it: "train.epochs=5 model={name: schnet, hidden: 64}"."""
    return " ".join(f"{key}={flow(value)}" for key, value in cell.items())


def flow(value: Any) -> str:
    """Return a value of a grid in one line, as a job file may have it: "{name: schnet, hidden: 64}"."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def _task(job: Job, cell: dict[str, Any], seed: int, work: Work) -> Task:
    content = {"kind": job.kind, **({"seed": seed} if job.varied else {}), **work.content()}
    if of_resources := {key: value for key, value in cell.items() if key.split(".")[0] == "resources"}:
        content["resources"] = of_resources
    digest = content_sha256(content)[:12]
    return Task(
        schema_version=SCHEMA,
        id=f"{job.name}-seed{seed}-{digest}" if job.varied else f"{job.name}-{digest}",
        label=f"{in_words(cell)} seed={seed}".strip() if job.varied else work.title(),
        kind=job.kind,
        seed=seed,
        image=_image(job),
        resources=job.resources,
        folders=work.folders(),
        cell=cell,
        work=work,
    )


def _image(job: Job) -> str | None:
    """Return the file of the job's image; None without one, and inside of it: there it is the environment at hand."""
    inside = machine.image_lock()
    if job.image is None:
        return None
    file = image_file(job.image)
    if inside is not None:
        if (name := json.loads(inside)["image"]) != file.stem:
            raise InputError(f"image: the job asks for {job.image} and this is inside of {name}")
        return None
    return str(file)
