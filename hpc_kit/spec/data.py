"""Data as users write them: where structures come from, what is predicted, which atoms are neighbours."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc_kit.spec.document import Strict
from hpc_kit.spec.models import Positive, PositiveFloat
from hpc_kit.spec.split import Fractions, Split


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

    source: Literal["qm9", "md17", "jarvis", "hmof", "core_mof", "smiles", "files"]
    path: str | None = None
    out: str
    graph: Graph | None = Graph()
    limit: Positive | None = None
    shard_size: Positive = 2048
    options: dict[str, str] = {}
