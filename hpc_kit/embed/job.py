"""Jobs of kind "embed": what a user writes, and what came of a run. The login side; run.py is the node's."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from rich.console import Console

from hpc_kit.explain.job import Model, UntrainedError, input_of, name_and_units, new_label
from hpc_kit.plan import Task, Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.predict.job import Paths
from hpc_kit.predict.weights import find_models, pinned
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.status import TaskStatus
from hpc_kit.spec.document import Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Positive
from hpc_kit.spec.shipped import user_path
from hpc_kit.text import in_unit

Distance = Literal["euclidean", "cityblock", "cosine", "tanimoto"]
Count = Annotated[int, Field(ge=0)]
Names = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


def _each_once(names: list) -> list:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"names {twice[0]!r} twice")
    return names


class Umap(Strict):
    """UMAP (McInnes et al. 2018, arXiv:1802.03426) of the features. `fit`: structures at most that it is fitted on;
    the others are put into that map."""

    neighbors: Annotated[int, Field(ge=2)] = 15
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1
    dimensions: Annotated[list[Literal[2, 3]], Field(min_length=1)] = [2, 3]
    seed: Count = 0
    fit: Annotated[int, Field(ge=100)] = 20000

    _once = field_validator("dimensions")(_each_once)


class Rough(Strict):
    """ROGI and ROGI-XD over each of `distances`, the mean and spread over `subsets` random subsets of `size`
    structures, and of all at once up to `whole` structures. `tanimoto` is that of Morgan fingerprints of the
    molecules, whatever the model."""

    distances: Annotated[list[Distance], Field(min_length=1)] = ["euclidean", "cityblock", "cosine"]
    subsets: Positive = 5
    size: Annotated[int, Field(ge=5, le=15000)] = 4000
    whole: Annotated[int, Field(ge=0, le=20000)] = 0
    seed: Count = 0

    _once = field_validator("distances")(_each_once)


class Embed(Strict):
    """Map what `models` (runs, task directories or best.pt; each cell of a run's grid is a model, of its seeds the
    first) have learned of the structures of `input`: files, folders, one shard set, or the word `sample`.

    `target`: one or several ([]: all that the models were trained on); a model takes part in those it knows.
    `pool`: how features of atoms become those of a structure; readout: as the model reads out (a sum or a mean).
    `limit`: so many structures, of a shard set drawn at random (`seed`), of files the first. `umap`, `roughness`
    null: not made. `page`: points at most that the page shows; `drawings`: molecules beside the pointer.
    """

    models: Paths
    input: Paths
    target: Names = []
    pool: Literal["readout", "mean", "sum"] = "readout"
    umap: Umap | None = Umap()
    roughness: Rough | None = Rough()
    limit: Positive | None = None
    seed: Count = 0
    batch: Positive = 128
    piece: Positive = 2048
    page: Annotated[int, Field(ge=0, le=50000)] = 15000
    drawings: bool = True
    allow_unseen: bool = False
    modules: list[str] = []

    _once = field_validator("models", "target")(_each_once)


class Job(AnyJob):
    """A job that maps learned features."""

    kind: Literal["embed"]
    embed: Embed


class Learner(Model):
    """A model whose features are mapped, and which of the targets asked for it was trained on: target -> unit."""

    units: dict[str, str]


class Work(AnyWork):
    """What to map, with whole paths; `dataset_sha256` is the identity of the shard set, `total` how many structures
    there are for each model (0: not known)."""

    embed: Embed
    units: dict[str, str]
    models: list[Learner]
    dataset_sha256: str | None
    total: int
    told: list[str]

    def content(self) -> dict[str, Any]:
        return {
            "models": [[one.sha256 for one in model.weights] for model in self.models],
            "units": self.units,
            "input": self.dataset_sha256 or self.embed.input,
            **self.embed.model_dump(exclude={"models", "target", "input", "batch", "modules"}),
        }

    def folders(self) -> list[str]:
        return [*(one.path for model in self.models for one in model.weights), *self.embed.input]

    def amount(self) -> tuple[int, str]:
        return self.total * len(self.models), "structures"

    def notes(self) -> list[str]:
        return self.told

    def title(self) -> str:
        return f"embed {', '.join(model.label for model in self.models)}"


def works(jobs: Varied) -> Works:
    """Yield each job's one piece of work. Raises InputError where a model, the input or the target does not fit."""
    for job, document in jobs:
        if job.resources.nodes * job.resources.ranks_per_node > 1:
            raise document.error(("resources",), "a job of kind 'embed' is one process: nodes: 1, ranks_per_node: 1")
        asked = job.embed
        try:
            models, units, notes = models_of(asked)
        except UntrainedError as error:
            raise document.error(("embed", "target"), str(error)) from None
        except InputError as error:
            raise document.error(("embed", "models"), str(error)) from None
        try:
            inputs, manifest = input_of(asked.input)
        except InputError as error:
            raise document.error(("embed", "input"), str(error)) from None
        total = 0 if manifest is None else min(manifest.graphs, asked.limit or manifest.graphs)
        if manifest is not None:
            _check_count(total, asked, document)
        whole = {"models": [str(user_path(path)) for path in asked.models], "input": inputs}
        yield (
            job,
            Work(
                embed=asked.model_copy(update=whole),
                units=units,
                models=models,
                dataset_sha256=manifest and manifest.sha256,
                total=total,
                told=notes,
            ),
        )


def _check_count(total: int, asked: Embed, document: Any) -> None:
    if asked.umap is not None and total <= asked.umap.neighbors:
        raise document.error(("embed", "umap", "neighbors"), too_few(total, asked.umap.neighbors))


def too_few(structures: int, neighbors: int) -> str:
    """Return what is wrong where there are too few structures that differ for as many neighbours."""
    return (
        f"{neighbors} neighbours of each structure, and there are {structures} that differ; more structures, or fewer"
        " neighbors"
    )


def models_of(asked: Embed) -> tuple[list[Learner], dict[str, str], list[str]]:
    """Return the models that were trained on a target asked for, the targets' units, and what a user should know.
    Raises InputError where there are none, UntrainedError where nobody was trained on a target."""
    models: list[Learner] = []
    units: dict[str, str] = {}
    trained: dict[str, list[str]] = {}
    notes: list[str] = []
    found = [one for path in asked.models for one in find_models(user_path(path))]
    for cell, weights in found:
        path = weights.paths[0]
        name, theirs = name_and_units(path)
        trained[str(path)] = list(theirs)
        mine = {name: unit for name, unit in theirs.items() if not asked.target or name in asked.target}
        if not mine:
            continue
        for target, unit in mine.items():
            if units.setdefault(target, unit) != unit:
                raise InputError(f"they predict {target} in different units: {units[target]}, {unit}")
        if len(weights.paths) > 1:
            notes.append(f"{name}: of {len(weights.paths)} seeds the first is mapped: {path}")
        notes += weights.notes
        name = name if len(mine) > 1 else f"{name}-{next(iter(mine))}"
        label = new_label(name, [model.label for model in models])
        models.append(Learner(label=label, cell=cell, weights=pinned([path]), units=mine))
    if gone := [name for name in asked.target if name not in units]:
        path, names = next(iter(trained.items()))
        raise UntrainedError(f"no model was trained on {gone[0]!r}: {path} was on {', '.join(names)}")
    if left := len(found) - len(models):
        notes.append(f"{left} of {len(found)} models were not trained on {', '.join(asked.target)}: left out")
    sums = [model.weights[0].sha256 for model in models]
    if len(set(sums)) < len(sums):
        raise InputError("the same best.pt is named twice")
    return models, {name: units[name] for name in asked.target or units}, notes


class Metrics(Record):
    """metrics.json, as far as it is read here: docs/feature-maps.md says what is in it."""

    units: dict[str, str]
    structures: int
    models: list[dict[str, Any]]
    roughness: list[dict[str, Any]]
    correlations: list[dict[str, Any]]
    notes: list[str]


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what is said of each task that came to its end."""
    done = [run.task(task.id) for task in tasks if states[task.id].state == "done"]
    return {"embedded": [{"folder": str(one.path), **one.read_metrics(Metrics)} for one in done]}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print of each model how far its map can be trusted, and how rough its features are."""
    for one in summary["embedded"]:
        for line in [f"{one['folder']}:", *told_lines(one)]:
            console.print(line, soft_wrap=True, highlight=False)


def told_lines(metrics: dict[str, Any]) -> list[str]:
    """Return what metrics.json says, in a few lines a model."""
    lines = []
    for model in metrics["models"]:
        errors = ", ".join(
            f"MAE {name} {in_unit(error, metrics['units'][name])}"
            for name, error in model["mae"].items()
            if error is not None
        )
        lines.append(f"{model['label']}: {model['width']} features{f', {errors}' if errors else ''}")
        if model["trustworthiness"]:
            lines.append(
                "  trustworthiness: " + ", ".join(f"{k} {v:.3f}" for k, v in model["trustworthiness"].items())
            )
    for row in metrics["roughness"]:
        lines.append(
            f"{row['model']}, {row['target']}, {row['distance']}: ROGI {row['rogi']:.3f}{_sd(row['rogi_sd'])}"
            f" (shuffled {row['rogi_permuted']:.3f}), ROGI-XD {row['rogi_xd']:.3f}{_sd(row['rogi_xd_sd'])} (shuffled"
            f" {row['rogi_xd_permuted']:.3f})"
        )
    lines += [correlation_text(one) for one in metrics["correlations"]]
    return lines + metrics["notes"]


def _sd(value: float | None) -> str:
    return "" if value is None else f" ± {value:.3f}"


def correlation_text(one: dict[str, Any]) -> str:
    """Return a sentence on how roughness and error go together over models."""
    of = f"{one['index']} ({one['distance']}) and MAE of {one['target']} over {one['n']} models"
    if one["spearman"] is None:
        return f"{of}: too few that differ for a rank correlation"
    text = f"{of}: Spearman {one['spearman']:.2f}, p {one['p']:.2g}"
    if one["low"] is not None:
        text += f", 95 % from {one['low']:.2f} to {one['high']:.2f}"
    if one["each"]:
        text += f"; from {min(one['each']):.2f} to {max(one['each']):.2f} over subsets"
    if one["least_p"] > 0.05:
        text += f". So few models cannot give a p below {one['least_p']:.2g}: this shows no trend and excludes none"
    return text
