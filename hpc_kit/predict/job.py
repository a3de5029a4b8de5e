"""Jobs of kind "predict": what a user writes, and what came of a run. The login side; run.py is the node's."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from rich.console import Console

from hpc_kit.data.manifest import FILE_NAME, read_manifest
from hpc_kit.plan import Task, Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.predict.weights import find_weights, pinned
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.stated import stated
from hpc_kit.runs.status import TaskStatus
from hpc_kit.spec.document import Document, Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Positive
from hpc_kit.spec.shipped import user_path
from hpc_kit.spec.train import Weights
from hpc_kit.text import in_unit


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]


class Predict(Strict):
    """Predict the structures of `input` (files, folders, or one shard set) with `model`, a run, a task directory or a
    best.pt; a run's seeds make an ensemble.

    The output is a file in the ending's form for every `piece` structures, or every shard of a set. `forces` null:
    where the model was trained on them. `batch` structures at most are predicted together. `modules` are those of
    your own that the model may import.
    """

    model: Annotated[str, Field(min_length=1)]
    input: Paths
    ending: Literal["h5", "jsonl", "csv", "extxyz"] = "h5"
    piece: Positive = 2048
    forces: bool | None = None
    allow_unseen: bool = False
    batch: Positive = 128
    modules: list[str] = []


class Job(AnyJob):
    """A job that predicts with a trained model."""

    kind: Literal["predict"]
    predict: Predict


class Work(AnyWork):
    """The predictions to make, with whole paths, and the files of weights; `dataset_sha256` is the identity of the
    shard set that is predicted on, `total` how many structures it holds (0: not known)."""

    predict: Predict
    weights: list[Weights]
    dataset_sha256: str | None
    total: int

    def content(self) -> dict[str, Any]:
        return {
            "weights": [one.sha256 for one in self.weights],
            "input": self.dataset_sha256 or self.predict.input,
            **self.predict.model_dump(exclude={"model", "input", "batch", "modules"}),
        }

    def folders(self) -> list[str]:
        return [*(one.path for one in self.weights), *self.predict.input]

    def amount(self) -> tuple[int, str]:
        return self.total, "structures"

    def title(self) -> str:
        return f"predict {Path(self.predict.input[0]).name}"


def works(jobs: Varied) -> Works:
    """Yield each job's one piece of work: weights and data named by what is in them. Raises InputError."""
    for job, document in jobs:
        asked = job.predict
        paths = [user_path(path) for path in asked.input]
        if gone := [path for path in paths if not path.exists()]:
            raise document.error(("predict", "input"), f"{gone[0]}: no such file or folder")
        digest, total = None, 0
        if len(paths) == 1 and (paths[0] / FILE_NAME).exists():
            try:
                manifest = read_manifest(paths[0])
            except InputError as error:
                raise document.error(("predict", "input"), str(error)) from None
            digest, total = manifest.sha256, manifest.graphs
        model = user_path(asked.model)
        weights = _weights(model, document)
        whole = asked.model_copy(update={"model": str(model), "input": [str(path) for path in paths]})
        yield job, Work(predict=whole, weights=weights, dataset_sha256=digest, total=total)


def _weights(model: Path, document: Document) -> list[Weights]:
    try:
        found = find_weights(model).paths
        for path in found:
            if "units" not in stated(path):
                raise InputError(f"{path}: is no whole best.pt of this hpc_kit")
        return pinned(found)
    except InputError as error:
        raise document.error(("predict", "model"), str(error)) from None


class Metrics(Record):
    """metrics.json, as far as it is read here."""

    structures: int
    parts: list[Any]
    rejected: int
    targets: dict[str, dict[str, Any]]


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what is said of each prediction that came to its end."""
    done = [run.task(task.id) for task in tasks if states[task.id].state == "done"]
    return {"predictions": [{"folder": str(one.parts), **one.read_metrics(Metrics)} for one in done]}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a line a prediction, and one for each target whose truth was known."""
    for made in summary["predictions"]:
        lines = [f"{made['folder']}: {made['structures']} structures in {len(made['parts'])} parts"]
        lines[0] += f", {made['rejected']} rejected" if made["rejected"] else ""
        lines += error_lines(made["targets"])
        for line in lines:
            console.print(line, soft_wrap=True, highlight=False)


def error_lines(report: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each target of what output.Errors.report gave."""
    lines = []
    for name, found in report.items():
        mae, rmse = (in_unit(found[key], found["unit"]) for key in ("mae", "rmse"))
        r2 = "" if found["r2"] is None else f", R2 {found['r2']:.4f}"
        lines.append(f"{name}: MAE {mae}, RMSE {rmse}{r2} over the {found['n']} true values in the input")
    return lines
