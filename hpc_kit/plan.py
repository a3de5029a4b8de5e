"""Turns a job into tasks: every cell of the grid times every seed, each with an id made of its content.

Not for: where and when tasks run (submit.py).
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from hpc_kit import machine
from hpc_kit.data.manifest import Manifest, read_manifest
from hpc_kit.data.split_file import resolve_split
from hpc_kit.files import file_sha256
from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.image import image_file
from hpc_kit.spec.job import Data, Job, JobFile, Prepare, Resources, Track
from hpc_kit.spec.models import Model
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.train import Train, Weights

SCHEMA = 1
# Keys of Data and Train that say where files lie or what results are held against, not what is computed: in no task
# id and in no fingerprint.
PLACES = {"source": True, "path": True, "split": {"manifest": True}, "reference_mae": True}
FILES = {"start_from": {"path": True}}


class Task(BaseModel):
    """One fully resolved piece of a job; task.yaml holds exactly this.

    `id` ends in a hash of what is computed: kind, data, model, train and seed, with the data set named by its
    sha256, and files of splits and weights likewise. Resources, image, tracking and the job's name are not part of
    the hash: they say where, not what. `units` is target -> unit. A task of kind "prepare" has `prepare` and none of
    the fields from `dataset` to `track`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    id: str
    label: str
    kind: str
    seed: int
    prepare: Prepare | None = None
    dataset: str | None = None
    dataset_sha256: str | None = None
    units: dict[str, str] = {}
    data: Data | None = None
    model: Model | None = None
    train: Train | None = None
    track: Track | None = None
    image: str | None = None
    resources: Resources

    @property
    def folders(self) -> list[str]:
        """The folders and files outside the run that the task reads or writes."""
        prepare, weights = self.prepare, self.train and self.train.start_from
        out = str(Path(prepare.out).parent) if prepare else None
        return [path for path in (self.dataset, prepare and prepare.path, out, weights and weights.path) if path]

    @property
    def unit(self) -> str:
        """The unit of the validation error: the target's, or "std" (standard deviations) where there are several."""
        return next(iter(self.units.values()), "") if len(self.units) < 2 else "std"


class Plan(BaseModel):
    """The tasks of a run; plan.json holds exactly this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    name: str
    tasks: list[Task]


def make_plan(file: JobFile) -> Plan:
    """Expand the grid and the seeds of a job. Raises InputError naming the key that gives an invalid task."""
    job = file.job
    if job.kind == "prepare":
        return Plan(schema_version=SCHEMA, name=job.name, tasks=[_prepare_task(job)])
    tasks: dict[str, Task] = {}
    manifests: dict[Path, Manifest] = {}
    for cell in _cells(job.grid):
        varied, document = job, file.document
        if cell:
            for key, value in cell.items():
                place = f"{file.document.place(('grid', key))}: grid {key}={value}"
                document = document.with_value(tuple(key.split(".")), value, place)
            varied = document.check(Job)
        folder = dataset_folder(varied.data)
        try:
            manifest = manifests.get(folder) or read_manifest(folder)
        except InputError as error:
            raise document.error(("data", "path"), str(error)) from None
        manifests[folder] = manifest
        if reason := manifest.other_graph(varied.data.graph.model_dump()):
            raise document.error(("data", "graph"), reason)
        for name in varied.data.target:
            if name not in manifest.targets:
                names = allowed(name, manifest.targets)
                raise document.error(("data", "target"), f"unknown target {name!r}; {names}")
        if varied.data.forces and manifest.forces is False:
            raise document.error(("data", "forces"), f"{folder} holds no forces")
        if manifest.periodic and getattr(varied.model, "electrostatics", False):
            raise document.error(("model", "electrostatics"), f"is for molecules, and {folder} holds crystals")
        try:
            split = resolve_split(varied.data.split, manifest)
        except InputError as error:
            raise document.error(("data", "split", *varied.data.split.marks[:1]), str(error)) from None
        try:
            weights = _pinned(varied.train.start_from)
        except InputError as error:
            raise document.error(("train", "start_from"), str(error)) from None
        varied = varied.model_copy(
            update={
                "data": varied.data.model_copy(update={"split": split}),
                "train": varied.train.model_copy(update={"start_from": weights}),
            }
        )
        for seed in job.seeds:
            task = _task(varied, cell, seed, folder, manifest)
            if task.id in tasks:
                raise file.document.error(("grid",), f"gives the task {task.label!r} twice")
            tasks[task.id] = task
    return Plan(schema_version=SCHEMA, name=job.name, tasks=list(tasks.values()))


def dataset_folder(data: Data) -> Path:
    """Return the folder of the shard set that `data` names."""
    if data.source == "sample":
        return shipped_folder("embedded") / "qm9_sample"
    return Path(data.path or "").expanduser().resolve()


def _pinned(weights: Weights | None) -> Weights | None:
    """Return `weights` with its whole path and the sha256 of the file. Raises InputError where it is another file."""
    if weights is None:
        return None
    path = Path(weights.path).expanduser().resolve()
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if weights.sha256 not in (None, sha256):
        raise InputError(f"{path}: has sha256 {sha256}, not {weights.sha256}")
    return Weights(path=str(path), sha256=sha256)


def _cells(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _prepare_task(job: Job) -> Task:
    folders = {
        key: str(Path(value).expanduser().resolve()) if value else None
        for key, value in (("path", job.prepare.path), ("out", job.prepare.out))
    }
    prepare = job.prepare.model_copy(update=folders)
    return Task(
        schema_version=SCHEMA,
        id=f"{job.name}-{_digest({'kind': job.kind, 'prepare': prepare.model_dump()})}",
        label=f"prepare {prepare.source}",
        kind=job.kind,
        seed=0,
        prepare=prepare,
        image=_image(job),
        resources=job.resources,
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


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _task(job: Job, cell: dict[str, Any], seed: int, folder: Path, manifest: Manifest) -> Task:
    content = {
        "kind": job.kind,
        "seed": seed,
        "dataset": manifest.sha256,
        "data": job.data.model_dump(exclude=PLACES),
        "model": job.model.model_dump(),
        "train": job.train.model_dump(exclude=FILES),
    }
    label = " ".join([*(f"{key}={value}" for key, value in cell.items()), f"seed={seed}"])
    return Task(
        schema_version=SCHEMA,
        id=f"{job.name}-seed{seed}-{_digest(content)}",
        label=label,
        kind=job.kind,
        seed=seed,
        dataset=str(folder),
        dataset_sha256=manifest.sha256,
        units={name: manifest.targets[name].unit for name in job.data.target},
        data=job.data,
        model=job.model,
        train=job.train,
        track=job.track,
        image=_image(job),
        resources=job.resources,
    )
