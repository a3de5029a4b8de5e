"""manifest.json of a shard set: what the login side may know about the data without opening a shard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hpc_kit.files import content_sha256, expect_ordinary
from hpc_kit.spec.errors import InputError, allowed

SCHEMA = 1
FILE_NAME = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Record):
    """One predicted quantity of a graph: its unit and what it is."""

    unit: str
    description: str


class Shard(_Record):
    """One HDF5 file of the set, with what it must hold.

    `arrays` is place in the file -> sha256 of those that are also read alone (identifiers and targets), so that a
    reader of these need not read the whole file to trust them; see shards.array_sha256.
    """

    file: str
    graphs: int
    atoms: int
    edges: int
    bytes: int
    sha256: str
    arrays: dict[str, str] = {}


class Manifest(_Record):
    """All that manifest.json says.

    `graph` holds the settings the stored edges were built with, or None where only atoms are stored and
    edges are built on reading. `atoms_per_graph` and `edges_per_graph` let a sampler size batches without
    reading a shard. `periodic`: any structure is; `forces`: all have forces, `with_forces`: how many have;
    `known`: target -> how many structures have a value of it; None: prepared before this was noted.
    `left_out` names what the structures carried that is not stored, and whether of the frame or of each atom.
    `rejected` counts what rejects.jsonl lists. `splits` are published ones, name -> part -> ids.
    `prepared` holds the settings that made the set, by which a restart knows its own. `sha256` is the identity
    of the whole set: the same content anywhere has the same.
    """

    schema_version: int
    name: str
    source: dict[str, Any]
    targets: dict[str, Target]
    graph: dict[str, Any] | None
    elements: list[int]
    periodic: bool | None = None
    forces: bool | None = None
    with_forces: int | None = None
    left_out: list[str] = []
    known: dict[str, int] | None = None
    shards: list[Shard]
    atoms_per_graph: list[int]
    edges_per_graph: list[int]
    rejected: int = 0
    splits: dict[str, dict[str, list[str]]] = {}
    prepared: dict[str, Any]
    sha256: str

    def other_graph(self, asked: dict[str, Any]) -> str:
        """Return why edges as `asked` cannot be had from this set, "" where they can."""
        if self.graph is None or self.graph == asked:
            return ""
        differing = ", ".join(f"{key} {value}" for key, value in self.graph.items() if asked.get(key) != value)
        return f"the edges of this data set were built with {differing}: ask for that, or prepare the data anew"

    def other_targets(self, asked: Sequence[str]) -> str:
        """Return why the targets `asked` cannot be learned from this set, "" where they can."""
        if not self.targets:
            return (
                "this data set holds no targets: it can be predicted on, not trained on; prepare it with a table of"
                " targets (docs/sources.md)"
            )
        for name in asked:
            if name not in self.targets:
                return f"unknown target {name!r}; {allowed(name, self.targets)}"
            if self.known is not None and not self.known.get(name, self.graphs):
                some = [name for name, count in self.known.items() if count]
                return f"no structure of this data set has a value of {name!r}; {allowed(name, some)}"
        return ""

    def graphs_with_forces(self) -> int | None:
        """Return how many graphs have forces; None where that was not noted."""
        return self.with_forces if self.with_forces is not None else (self.graphs if self.forces else None)

    def without_forces(self) -> str:
        """Return why forces cannot be learned from this set, "" where they can: what follows its name."""
        if self.forces is not False:
            return ""
        if self.with_forces:
            lack = self.graphs - self.with_forces
            return (
                f"has forces for {self.with_forces} of its {self.graphs} graphs, {lack} lack them: prepare"
                " it anew with --option forces_only=true, which leaves those out"
            )
        alike = [name for name in self.left_out if "force" in name.lower()]
        hint = f", but its structures carried {', '.join(alike)}: prepare it anew with --option forces=NAME"
        return "holds no forces" + (hint if alike else "")

    def most_known(self, targets: Sequence[str]) -> int:
        """Return how many graphs can have all of `targets` at most; with one target, exactly so many have it."""
        known = self.known or {}
        return min((known.get(name, self.graphs) for name in targets), default=self.graphs)

    @property
    def graphs(self) -> int:
        return sum(shard.graphs for shard in self.shards)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.json. Raises InputError where it is missing, foreign or altered."""
    path = folder / FILE_NAME
    try:
        expect_ordinary(path)
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: not a shard set: it holds no {FILE_NAME}") from None
    except NotADirectoryError:
        raise InputError(f"{folder}: is a file; a shard set is a folder that holds {FILE_NAME}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from None
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version != SCHEMA:
        raise InputError(f"{path}: schema version {version!r}; this hpc_kit reads version {SCHEMA}")
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}") from None
    if content_sha256(fields) != manifest.sha256:
        raise InputError(f"{path}: its content does not match its own sha256: it was altered or damaged")
    return manifest
