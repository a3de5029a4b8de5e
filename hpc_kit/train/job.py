"""Jobs of kind "train": what a user writes, and how it becomes pieces of work. The login side; run.py is the node's.

Not for: what came of a run (summary.py).
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpc_kit.data.manifest import Manifest, read_manifest
from hpc_kit.data.split_file import resolve_split
from hpc_kit.files import file_sha256
from hpc_kit.plan import Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.runs.stated import is_whole, looks_like_checkpoint, stated
from hpc_kit.spec.data import Data
from hpc_kit.spec.document import Document, Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Model, SchNet
from hpc_kit.spec.shipped import shipped_folder, user_path
from hpc_kit.spec.train import Train, Weights
from hpc_kit.train.summary import print_summary, summarize

__all__ = ["Job", "Work", "works", "summarize", "print_summary"]

# Keys of Data and Train that say where files lie, when they are written or what results are held against, not what
# is computed: in no task id and in no fingerprint.
PLACES = {"source": True, "path": True, "split": {"manifest": True}, "reference_mae": True}
FILES = {"start_from": {"path": True}, "checkpoint_every": True}


class Track(Strict):
    """Copies of the records for Weights & Biases: written into the task's folder to be uploaded later (offline), or
    sent while training (online). Nothing there can fail a run."""

    wandb: Literal["offline", "online"] = "offline"
    project: Annotated[str, Field(min_length=1)] = "hpc_kit"


class Job(AnyJob):
    """A job that trains a model on a data set, for each of its seeds."""

    varied: ClassVar[tuple[str, ...]] = ("data", "model", "train")

    kind: Literal["train"] = "train"
    data: Data
    model: Model = SchNet()
    train: Train = Train()
    track: Track | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "Job":
        if self.train.precision == "fp16" and not self.resources.gpus_per_rank:
            raise ValueError("train.precision fp16 needs a GPU (resources.gpus_per_rank: 1); on the CPU take bf16")
        if self.data.forces and self.train.compile:
            raise ValueError("train.compile does not go with data.forces: torch compiles no second derivatives")
        if self.model.name == "cgcnn_matrix" and self.data.graph.max_neighbors is None:
            raise ValueError("model cgcnn_matrix pads to data.graph.max_neighbors, which must be set (original: 12)")
        return self


class Work(AnyWork):
    """One training: `dataset` is the shard set's folder, `units` is target -> unit."""

    dataset: str
    dataset_sha256: str
    units: dict[str, str]
    data: Data
    model: Model
    train: Train
    track: Track | None = None

    @property
    def unit(self) -> str:
        """The unit of the validation error: the target's, or "std" (standard deviations) where there are several."""
        return next(iter(self.units.values())) if len(self.units) == 1 else "std"

    def score(self, record: dict[str, Any]) -> float:
        """Return what the best epoch has least of, from the line of an epoch."""
        if not self.data.forces:
            return record["val_mae"]
        return self.train.energy_weight * record["val_mae"] + self.train.force_weight * record["val_force_mae"]

    @property
    def warm_up_epochs(self) -> int:
        """How many epochs are left out where times are compared."""
        return 0

    def content(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset_sha256,
            "data": self.data.model_dump(exclude=PLACES),
            "model": self.model.model_dump(),
            "train": self.train.model_dump(exclude=FILES),
        }

    def folders(self) -> list[str]:
        weights = self.train.start_from
        return [self.dataset, *([weights.path] if weights else [])]

    def notes(self) -> list[str]:
        if self.data.forces and not self.model.for_forces:
            return [f"model {self.model.name} is not meant for forces (docs/models.md says why)"]
        return []

    def amount(self) -> tuple[int, str]:
        return self.train.epochs, "epochs"


def works(jobs: Varied) -> Works:
    """Yield each job with its piece of work: the data set's identity, its units, split and weights filled in.

    Raises InputError naming the key that does not fit the data set.
    """
    manifests: dict[Path, Manifest] = {}
    for job, document in jobs:
        folder = dataset_folder(job.data)
        if folder not in manifests:
            try:
                manifests[folder] = read_manifest(folder)
            except InputError as error:
                raise document.error(("data", "path"), str(error)) from None
        manifest = manifests[folder]
        _check_data(job, document, folder, manifest)
        try:
            split = resolve_split(job.data.split, manifest, job.data.target)
        except InputError as error:
            raise document.error(("data", "split", *job.data.split.marks[:1]), str(error)) from None
        try:
            weights = _pinned(job.train.start_from)
            _check_fit(weights, job)
        except InputError as error:
            raise document.error(("train", "start_from"), str(error)) from None
        yield (
            job,
            Work(
                dataset=str(folder),
                dataset_sha256=manifest.sha256,
                units={name: manifest.targets[name].unit for name in job.data.target},
                data=job.data.model_copy(update={"split": split}),
                model=job.model,
                train=job.train.model_copy(update={"start_from": weights}),
                track=job.track,
            ),
        )


def _check_data(job: Job, document: Document, folder: Path, manifest: Manifest) -> None:
    if reason := manifest.other_graph(job.data.graph.model_dump()):
        raise document.error(("data", "graph"), reason)
    if reason := manifest.other_targets(job.data.target):
        raise document.error(("data", "target"), reason)
    unit = manifest.targets[job.data.target[0]].unit
    if job.data.forces and unit != "eV":
        reason = f"are minus the gradient of an energy in eV, and {job.data.target[0]} is in {unit or 'no unit'}"
        if not unit:
            reason += f": if it is one, prepare the data with --option units={job.data.target[0]}:eV"
        raise document.error(("data", "forces"), reason)
    if job.data.forces and (reason := manifest.without_forces()):
        raise document.error(("data", "forces"), f"{folder} {reason}")
    if manifest.periodic and getattr(job.model, "electrostatics", False):
        raise document.error(("model", "electrostatics"), f"is for molecules, and {folder} holds crystals")


def dataset_folder(data: Data) -> Path:
    """Return the folder of the shard set that `data` names."""
    if data.source == "sample":
        return shipped_folder("embedded") / "qm9_sample"
    return user_path(data.path or "")


def _pinned(weights: Weights | None) -> Weights | None:
    """Return `weights` with its whole path and the sha256 of the file. Raises InputError where it is another file."""
    if weights is None:
        return None
    path = user_path(weights.path)
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if weights.sha256 not in (None, sha256):
        raise InputError(f"{path}: has sha256 {sha256}, not {weights.sha256}")
    return Weights(path=str(path), sha256=sha256)


def _check_fit(weights: Weights | None, job: Job) -> None:
    """Raise InputError where a file is no checkpoint, or one of this package that names another model than the job.

    Other packages' say nothing of the kind; what is in them is compared when the task runs.
    """
    if weights is None:
        return
    if not looks_like_checkpoint(Path(weights.path)):
        raise InputError(f"{weights.path}: is no checkpoint: torch did not write it")
    if not is_whole(Path(weights.path)):
        raise InputError(f"{weights.path}: is damaged: its bytes do not fit the sums in it; copy it anew")
    spec = stated(Path(weights.path)).get("spec")
    if not isinstance(spec, dict):
        return
    asked = job.model.model_dump()
    shaped = (asked.keys() | spec.keys()) - {"readout"}  # has no weights
    if other := [key for key in sorted(shaped) if asked.get(key) != spec.get(key)]:
        keys = ["name"] if "name" in other else other
        theirs, ours = (", ".join(f"{key} {one.get(key)}" for key in keys) for one in (spec, asked))
        raise InputError(
            f"{weights.path}: is of another architecture than the job's model: {theirs}; the job's: {ours}"
        )
