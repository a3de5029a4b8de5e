"""Jobs of kind "explain": what a user writes, and what came of a run. The login side; run.py is the node's."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from rich.console import Console

from hpc_kit.data.manifest import FILE_NAME, Manifest, read_manifest
from hpc_kit.plan import Task, Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.predict.job import Paths
from hpc_kit.predict.weights import find_models, pinned
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.stated import stated
from hpc_kit.runs.status import TaskStatus
from hpc_kit.spec.document import Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Positive
from hpc_kit.spec.shipped import shipped_folder, user_path
from hpc_kit.spec.train import Weights

Method = Literal["cam", "grad_cam", "saliency", "positions"]
SAMPLE = "sample"  # as input: the molecules that ship with the package


def _once(what: str, names: list[str]) -> list[str]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{what} names {twice[0]!r} twice")
    return names


class Trust(Strict):
    """What is computed beside the maps to say whether they can be trusted, on `structures` structures at most.

    `sparsity`: the share of atoms that are not among the top; `random`: draws of random atoms beside them; `draws`:
    how often weights are made random.
    """

    structures: Positive = 200
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.75
    random: Positive = 5
    draws: Positive = 5


class Gallery(Strict):
    """Which structures are drawn: `count` of them with the largest error (by: error) or the largest prediction of the
    first model (by: value), or those with the `identifiers`, in the order they are named in. `forms`: files that are
    written of each picture."""

    by: Literal["error", "value", "identifiers"] = "value"
    count: Annotated[int, Field(ge=0, le=200)] = 12
    identifiers: list[str] = []
    forms: list[Literal["svg", "png"]] = ["svg"]

    @model_validator(mode="after")
    def _identifiers_fit(self) -> "Gallery":
        if (self.by == "identifiers") != bool(self.identifiers):
            raise ValueError("by: identifiers and a list of identifiers belong together")
        _once("identifiers", self.identifiers)
        return self


class Explain(Strict):
    """Explain what `models` (runs, task directories or best.pt; a run's seeds make an ensemble, each cell of its grid
    a model) predict of one `target` (null: their only one) for the structures of `input`: files, folders, one shard
    set, or the word `sample`.

    `methods` are of attribution.py; `relu` keeps what is positive of cam and grad_cam. `limit` explains that many:
    drawn at random (`seed`) from a shard set, the first of files. `csv` writes one table beside the parts.
    """

    models: Paths
    input: Paths
    target: Annotated[str, Field(min_length=1)] | None = None
    methods: Annotated[list[Method], Field(min_length=1)] = ["cam"]
    relu: bool = False
    limit: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["fp32", "fp64"] = "fp32"
    batch: Positive = 128
    piece: Positive = 2048
    allow_unseen: bool = False
    csv: bool = True
    trust: Trust | None = None
    gallery: Gallery = Gallery()
    modules: list[str] = []

    @field_validator("models", "methods")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        return _once("the list", names)


class Job(AnyJob):
    """A job that explains what trained models predict."""

    kind: Literal["explain"]
    explain: Explain


class Model(Strict):
    """A model to explain, or an ensemble of it: its label in what comes out, what the grid of its run says of it, and
    its files."""

    label: str
    cell: str
    weights: list[Weights]


class Work(AnyWork):
    """What to explain, with whole paths; `dataset_sha256` is the identity of the shard set, `total` how many
    structures there are for each model (0: not known)."""

    explain: Explain
    target: str
    unit: str
    models: list[Model]
    dataset_sha256: str | None
    total: int
    told: list[str]

    def content(self) -> dict[str, Any]:
        return {
            "models": [[one.sha256 for one in model.weights] for model in self.models],
            "target": self.target,
            "input": self.dataset_sha256 or self.explain.input,
            **self.explain.model_dump(exclude={"models", "target", "input", "batch", "modules"}),
        }

    def folders(self) -> list[str]:
        return [*(one.path for model in self.models for one in model.weights), *self.explain.input]

    def amount(self) -> tuple[int, str]:
        return self.total * len(self.models), "structures"

    def notes(self) -> list[str]:
        return self.told

    def title(self) -> str:
        return f"explain {self.target} of {', '.join(model.label for model in self.models)}"


def works(jobs: Varied) -> Works:
    """Yield each job's one piece of work. Raises InputError where a model, the input or the target does not fit."""
    for job, document in jobs:
        if job.resources.nodes * job.resources.ranks_per_node > 1:
            raise document.error(
                ("resources",), "a job of kind 'explain' is one process: nodes: 1, ranks_per_node: 1"
            )
        asked = job.explain
        try:
            models, target, unit, notes = models_of(asked)
        except UntrainedError as error:
            raise document.error(("explain", "target"), str(error)) from None
        except InputError as error:
            raise document.error(("explain", "models"), str(error)) from None
        try:
            inputs, manifest = input_of(asked.input)
        except InputError as error:
            raise document.error(("explain", "input"), str(error)) from None
        if manifest is not None and asked.gallery.by == "error" and asked.gallery.count:
            if reason := manifest.other_targets([target]):
                raise document.error(("explain", "gallery", "by"), f"there are no errors: {reason}")
        whole = {"models": [str(user_path(path)) for path in asked.models], "input": inputs}
        total = 0 if manifest is None else min(manifest.graphs, asked.limit or manifest.graphs)
        yield (
            job,
            Work(
                explain=asked.model_copy(update=whole),
                target=target,
                unit=unit,
                models=models,
                dataset_sha256=manifest and manifest.sha256,
                total=total,
                told=notes,
            ),
        )


class UntrainedError(InputError):
    """The target is not one that the models were trained on."""


def models_of(asked: Explain) -> tuple[list[Model], str, str, list[str]]:
    """Return the models, the target and its unit, and what a user should know of them. Raises InputError where there
    are none, UntrainedError where the target is not theirs."""
    models, units, notes = [], {}, []
    for cell, found in [one for path in asked.models for one in find_models(user_path(path))]:
        path = found.paths[0]
        name, units[path] = name_and_units(path)
        weights = pinned(found.paths)
        models.append(Model(label=new_label(name, [model.label for model in models]), cell=cell, weights=weights))
        notes += found.notes
    sums = [one.sha256 for model in models for one in model.weights]
    if len(set(sums)) < len(sums):
        raise InputError("the same best.pt is named twice")
    first = next(iter(units.values()))
    target = asked.target or next(iter(first))
    if asked.target is None and len(first) > 1:
        raise UntrainedError(f"the model predicts {', '.join(first)}: name one of them")
    for path, of_model in units.items():
        if target not in of_model:
            named = "" if asked.target else ", the target of the first; name one that all were trained on"
            raise UntrainedError(f"{path} was not trained on {target!r}, but on {', '.join(of_model)}{named}")
    if len(found := {of_model[target] for of_model in units.values()}) > 1:
        raise InputError(f"they predict {target} in different units: {', '.join(sorted(found))}")
    return models, target, found.pop(), notes


def name_and_units(path: Path) -> tuple[str, dict[str, str]]:
    """Return the model that a best.pt says it holds, and target -> unit. Raises InputError where it says neither."""
    told = stated(path)
    if not isinstance(told.get("units"), dict) or not isinstance(told.get("spec"), dict):
        raise InputError(f"{path}: is no whole best.pt of this hpc_kit")
    units = {str(name): str(unit) for name, unit in told["units"].items()}
    return str(told["spec"].get("name", told["spec"].get("module", "model"))), units


def new_label(name: str, taken: list[str]) -> str:
    """Return a label that is a file's name too: the model's, and a number where that is taken."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    labels = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
    return next(label for label in labels if label not in taken)


def input_of(given: list[str]) -> tuple[list[str], Manifest | None]:
    """Return whole paths of the input, and the manifest where it is a shard set. Raises InputError."""
    paths = [user_path(path) for path in given]
    if given == [SAMPLE] and not paths[0].exists():
        paths = [shipped_folder("embedded") / "qm9_sample"]
    if gone := [path for path in paths if not path.exists()]:
        raise InputError(f"{gone[0]}: no such file or folder")
    is_set = len(paths) == 1 and (paths[0] / FILE_NAME).exists()
    return list(map(str, paths)), read_manifest(paths[0]) if is_set else None


class Metrics(Record):
    """metrics.json, as far as it is read here: docs/explain.md says what is in it."""

    target: str
    unit: str
    models: list[dict[str, Any]]
    gallery: list[dict[str, Any]]
    between: dict[str, Any]


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what is said of each task that came to its end, without the structures of its gallery."""
    done = [run.task(task.id) for task in tasks if states[task.id].state == "done"]
    found = [{"folder": str(one.path), **one.read_metrics(Metrics)} for one in done]
    return {"explained": [{k: v for k, v in one.items() if k != "gallery"} for one in found]}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print what each model looks at, and whether that can be trusted."""
    for one in summary["explained"]:
        for line in [f"{one['folder']}:", *told_lines(one)]:
            console.print(line, soft_wrap=True, highlight=False)


def told_lines(metrics: dict[str, Any]) -> list[str]:
    """Return what metrics.json says, in a few lines a model."""
    lines = []
    for model in metrics["models"]:
        rejected = f", {model['rejected']} rejected" if model["rejected"] else ""
        lines.append(f"{model['label']}: {metrics['target']} of {model['structures']} structures{rejected}")
        for method, rows in model["roles"].items():
            if rows:
                best = [f"{row['name']} {row['weight']:.2f}" for row in rows if row["kind"] == "role"][:4]
                lines.append(f"  {method}: weight of an atom (1 is the average): {', '.join(best)}")
            lines += [f"  {method}: {text}" for text in verdicts(model["trust"].get(method))]
    return lines


def verdicts(trust: dict[str, Any] | None) -> list[str]:
    """Return what was found on trust in a method's maps of a model, a text a test; [] where nothing was asked."""
    if not trust:
        return []
    texts = []
    for way, said in (("zero", "features of the top atoms zeroed"), ("remove", "top atoms removed")):
        plus = trust["fidelity"][way]["plus"]
        if plus is not None:
            verdict = "more than random atoms" if plus["better"] else "not more than random atoms"
            verdict = verdict if plus["interval"] else "one structure only"
            texts.append(f"{said}: {plus['value']:.4g} against {plus['random']:.4g} ({verdict})")
    agreed = trust["agreement"]
    texts.append(
        "agreement over seeds: one model only"
        if agreed is None
        else f"agreement over seeds: Spearman {agreed['spearman']:.2f} ({agreed['pairs']} pairs)"
    )
    random = trust["randomisation"]
    if random["passed"] is None:
        texts.append("random weights: the map is constant within each structure, so nothing can be said")
    else:
        signed, size = ("-" if one is None else f"{one:.2f}" for one in (random["spearman"][-1], random["size"][-1]))
        outcome = "passed" if random["passed"] else "FAILED: the map survives"
        texts.append(f"random weights: Spearman {signed}, of absolute values {size} ({outcome})")
    return texts
