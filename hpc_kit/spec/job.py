"""The job file as typed models: every key a user may write, its meaning, its limits and its default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hpc_kit.spec.document import Document, Strict, parse_value, read_document
from hpc_kit.spec.models import Model, Positive, PositiveFloat, SchNet
from hpc_kit.spec.shipped import find_shipped
from hpc_kit.spec.split import Fractions, Seed, Split
from hpc_kit.spec.train import Train
from hpc_kit.spec.walltime import Walltime


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]


class Graph(Strict):
    """Which atoms are neighbours; docs/graphs.md has the rules at length.

    radius: all pairs closer than `cutoff` (Angstrom); with `max_neighbors` only that many nearest of each atom.
    alignn: the `max_neighbors` nearest of each atom and all as near as the last of them, both directions of each
    pair; `cutoff` is where the search starts. ALIGNN's own values are 12 and 8.0. Crystals only.
    """

    cutoff: PositiveFloat = 5.0
    max_neighbors: Positive | None = None
    rule: Literal["radius", "alignn"] = "radius"

    @model_validator(mode="after")
    def _alignn_counts(self) -> "Graph":
        if self.rule == "alignn" and self.max_neighbors is None:
            raise ValueError("rule alignn needs max_neighbors (its authors use 12, with cutoff 8.0)")
        return self


class Data(Strict):
    """Where structures come from and what is predicted: one target or a list of them, with `forces` the forces too,
    as minus the gradient of the one target. `window` streams that many shards at a time; null keeps the whole set in
    memory. `reference_mae` holds published errors (target -> MAE in its unit) to be compared with."""

    source: Literal["sample", "shards"]
    path: str | None = None
    target: Names
    forces: bool = False
    split: Split = Fractions()
    graph: Graph = Graph()
    window: Positive | None = None
    reference_mae: dict[str, PositiveFloat] = {}

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Data":
        if self.source == "shards" and self.path is None:
            raise ValueError("source 'shards' needs path: the folder that holds manifest.json")
        if self.source == "sample" and self.path is not None:
            raise ValueError("source 'sample' ships with the package and takes no path")
        return self

    @model_validator(mode="after")
    def _targets_fit(self) -> "Data":
        if len(set(self.target)) != len(self.target):
            raise ValueError(f"target must not name one twice (got {self.target})")
        if self.forces and len(self.target) > 1:
            raise ValueError("forces are the gradient of one energy: with forces, target must be that one")
        predicted = [*self.target, *(["forces"] if self.forces else [])]
        if unknown := [name for name in self.reference_mae if name not in predicted]:
            raise ValueError(f"reference_mae names {unknown[0]!r}, which is not predicted ({', '.join(predicted)})")
        return self


class Prepare(Strict):
    """A shard set to make: from `source` (at `path`, where it is no installed package) into the folder `out`.

    `graph: null` stores atoms alone, and edges are built on reading. `options` are the source's own.
    """

    source: Literal["qm9", "md17", "jarvis", "hmof", "core_mof", "files"]
    path: str | None = None
    out: str
    graph: Graph | None = Graph()
    limit: Positive | None = None
    shard_size: Positive = 2048
    options: dict[str, str] = {}


class Resources(Strict):
    """What one task occupies: `nodes` times `ranks_per_node` processes that share every batch. `gpus_per_rank: 0`
    trains on the CPU; with 1 a missing GPU is an error. `memory_gb` is that of one rank; null: its share of a node,
    by the cores and GPUs it takes. A task that was preempted, ran into its walltime or lost its node is started again
    from its checkpoint, up to `retries` times."""

    nodes: Positive = 1
    ranks_per_node: Positive = 1
    gpus_per_rank: Annotated[int, Field(ge=0, le=1)] = 1
    cpus_per_rank: Positive = 8
    memory_gb: Positive | None = None
    walltime: Walltime = "02:00:00"
    retries: Annotated[int, Field(ge=0)] = 5


class Track(Strict):
    """Copies of the records for Weights & Biases: written into the task's folder to be uploaded later (offline), or
    sent while training (online). Nothing there can fail a run."""

    wandb: Literal["offline", "online"] = "offline"
    project: Annotated[str, Field(min_length=1)] = "hpc_kit"


class Job(Strict):
    """One job file. `image` is an image to run in, by name ('hpc_kit image list') or path; null: the environment at
    hand."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Literal["train", "prepare"] = "train"
    data: Data | None = None
    prepare: Prepare | None = None
    model: Model = SchNet()
    train: Train = Train()
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    resources: Resources = Resources()
    image: Annotated[str, Field(min_length=1)] | None = None
    track: Track | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "Job":
        if self.kind == "train" and self.train.precision == "fp16" and not self.resources.gpus_per_rank:
            raise ValueError("train.precision fp16 needs a GPU (resources.gpus_per_rank: 1); on the CPU take bf16")
        if self.data and self.data.forces and self.train.compile:
            raise ValueError("train.compile does not go with data.forces: torch compiles no second derivatives")
        if self.data and self.model.name == "cgcnn_matrix" and self.data.graph.max_neighbors is None:
            raise ValueError("model cgcnn_matrix pads to data.graph.max_neighbors, which must be set (original: 12)")
        return self

    @model_validator(mode="after")
    def _what_its_kind_needs(self) -> "Job":
        needed, other = ("prepare", "data") if self.kind == "prepare" else ("data", "prepare")
        if getattr(self, needed) is None:
            raise ValueError(f"a job of kind {self.kind!r} needs {needed}:")
        if getattr(self, other) is not None:
            raise ValueError(f"a job of kind {self.kind!r} takes no {other}:")
        if self.kind == "prepare" and (self.grid or len(self.seeds) > 1):
            raise ValueError("a job of kind 'prepare' is one task: it takes no grid and no seeds")
        if self.kind == "prepare" and self.resources.nodes * self.resources.ranks_per_node > 1:
            raise ValueError("a job of kind 'prepare' runs on one rank, with resources.cpus_per_rank processes")
        return self

    @field_validator("seeds")
    @classmethod
    def _no_seed_twice(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"must not name a seed twice (got {seeds})")
        return seeds

    @field_validator("grid")
    @classmethod
    def _grid_varies_content(cls, grid: dict[str, list]) -> dict[str, list]:
        for key in grid:
            if key.split(".")[0] not in ("data", "model", "train"):
                raise ValueError(f"cannot vary {key!r}: a grid varies keys under data, model or train")
        return grid


@dataclass(frozen=True)
class JobFile:
    """A checked job and the document it was read from."""

    job: Job
    document: Document


def load_job(name: str, overrides: Sequence[str] = ()) -> JobFile:
    """Read the job file `name` (a path, or a job that ships with the package) and apply `key=value` overrides.

    Raises InputError naming file, line, key and what is allowed.
    """
    document = read_document(find_shipped("jobs", name))
    for text in overrides:
        document = document.with_value(*parse_value("--set", text), f"--set {text}")
    return JobFile(document.check(Job), document)
