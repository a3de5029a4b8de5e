"""The job file as typed models: every key a user may write, its meaning, its limits and its default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hpc_kit.spec.document import Document, Strict, parse_scalar, read_document
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import Model, Positive, PositiveFloat, SchNet
from hpc_kit.spec.shipped import find_shipped
from hpc_kit.spec.split import Fractions, Seed, Split

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


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
    """Where structures come from and what is predicted. `window` streams that many shards at a time; null keeps the
    whole set in memory."""

    source: Literal["sample", "shards"]
    path: str | None = None
    target: str
    split: Split = Fractions()
    graph: Graph = Graph()
    window: Positive | None = None

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Data":
        if self.source == "shards" and self.path is None:
            raise ValueError("source 'shards' needs path: the folder that holds manifest.json")
        if self.source == "sample" and self.path is not None:
            raise ValueError("source 'sample' ships with the package and takes no path")
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


class Train(Strict):
    """How the weights are fitted. A batch holds up to `batch_size` graphs, and no more than `batch_atoms` atoms and
    `batch_edges` edges where those are set; an optimiser step follows every `accumulate` batches. `clip` bounds the
    gradient's norm. `warmup` counts optimiser steps."""

    epochs: Positive = 100
    batch_size: Positive = 128
    batch_atoms: Positive | None = None
    batch_edges: Positive | None = None
    accumulate: Positive = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    warmup: Annotated[int, Field(ge=0)] = 0
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = None
    loss: Literal["mse", "mae"] = "mse"
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _one_warmup(self) -> "Train":
        if self.schedule == "one_cycle" and self.warmup:
            raise ValueError("schedule one_cycle rises by itself: leave warmup at 0")
        return self


class Resources(Strict):
    """What one task occupies. `gpus_per_rank: 0` trains on the CPU; with 1 a missing GPU is an error."""

    nodes: Positive = 1
    ranks_per_node: Positive = 1
    gpus_per_rank: Annotated[int, Field(ge=0, le=1)] = 1
    cpus_per_rank: Positive = 8
    walltime: str = "02:00:00"

    @field_validator("walltime")
    @classmethod
    def _hours_minutes_seconds(cls, value: str) -> str:
        parts = value.split(":")
        if len(parts) != 3 or not all(p.isdigit() and len(p) >= 2 for p in parts) or max(parts[1:]) > "59":
            raise ValueError(f"must be hours:minutes:seconds, as in '02:00:00' (got {value!r})")
        return value

    @model_validator(mode="after")
    def _one_rank(self) -> "Resources":
        if self.nodes * self.ranks_per_node != 1:
            raise ValueError("a task trains on one rank: nodes and ranks_per_node must be 1")
        return self


class Job(Strict):
    """One job file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Literal["train", "prepare"] = "train"
    data: Data | None = None
    prepare: Prepare | None = None
    model: Model = SchNet()
    train: Train = Train()
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _what_its_kind_needs(self) -> "Job":
        needed, other = ("prepare", "data") if self.kind == "prepare" else ("data", "prepare")
        if getattr(self, needed) is None:
            raise ValueError(f"a job of kind {self.kind!r} needs {needed}:")
        if getattr(self, other) is not None:
            raise ValueError(f"a job of kind {self.kind!r} takes no {other}:")
        if self.kind == "prepare" and (self.grid or len(self.seeds) > 1):
            raise ValueError("a job of kind 'prepare' is one task: it takes no grid and no seeds")
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
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text}: must be key=value, as in --set train.epochs=3")
        document = document.with_value(tuple(key.strip().split(".")), parse_scalar(value), f"--set {text}")
    return JobFile(document.check(Job), document)
