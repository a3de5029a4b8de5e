"""What is predicted on: ASE Atoms, files, folders, tables of SMILES, shard sets; cut into pieces that are read apart.

Not for: the predictions (predictor.py). Nothing here loads torch: worker processes import it.
"""

import collections
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from hpc_kit.data.convert import Records, chunks, to_arrays, unique
from hpc_kit.data.manifest import FILE_NAME, Manifest, Target, read_manifest
from hpc_kit.data.shards import Arrays, add_edges, read_shard_set
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.data.sources.frames import carried, energy_and_forces
from hpc_kit.data.sources.pieces import files_of, pieces_of, read_piece, stem_of
from hpc_kit.data.sources.smiles import Smiles
from hpc_kit.data.sources.tables import number
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.data.workers import Workers
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError

PIECE = 512  # structures that are read and predicted together
PATIENCE_S = 3.0
Loaded = tuple[Arrays | None, list[tuple[str, str]]]
# What tells the content of a piece from others', and a function with its arguments, for this process or another.
Task = tuple[str, Callable[..., Loaded], tuple]


class Given:
    """Structures of files or at hand, as a source. A raw record is (kind, content) of pieces.py; `targets` are the
    names of the numbers that they may carry of themselves."""

    def __init__(self, paths: Sequence[Path], targets: Sequence[str], atoms: Iterable[Atoms] = ()):
        self.paths, self.targets, self.atoms = paths, targets, atoms

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"atoms": ()}  # each goes to a worker with its record

    def records(self) -> Iterator[tuple[str, Any]]:
        for place, atoms in enumerate(self.atoms):
            if not isinstance(atoms, Atoms):
                raise InputError(f"structure {place} is a {type(atoms).__name__}, not an ase.Atoms")
            yield str(atoms.info.get("id", place)), ("atoms", atoms)
        twice = len({stem_of(path.name) for path in self.paths}) < len(self.paths)
        for path in self.paths:
            for file, name, fault in files_of(path, None):
                stem = stem_of(f"{path}/{name}" if path.is_dir() and twice else str(path) if twice else name)
                for id, kind, content in pieces_of(file, stem, fault):
                    yield id, (kind, content)

    def convert(self, id: str, raw: Any) -> Structure:
        atoms = read_piece(*raw)
        energy, forces = energy_and_forces(atoms)
        said = carried(atoms)[0] | ({} if energy is None else {"energy": energy})
        known = {}
        for name in self.targets:
            try:
                known[name] = number(said.get(name), name)
            except RejectedError:  # what it says of itself is not needed to predict
                known[name] = np.nan
        if forces is not None and not (forces.shape == atoms.positions.shape and np.isfinite(forces).all()):
            forces = None
        return from_ase(id, atoms, known, forces)


@dataclass
class Pieces:
    """The input of one prediction. `names`: targets, each of which the arrays have a column of; `notes`: what a user
    should know of the input; `tasks`: what makes the pieces, one after another; `total`: how many structures,
    where that is known; `said`: how they came about, where they were not given."""

    names: list[str]
    tasks: Iterator[Task]
    notes: list[str]
    total: int | None = None
    said: str = ""

    def load(
        self, workers: int = 0, wanted: Callable[[int, str], bool] = lambda number, key: True
    ) -> Iterator[tuple[int, str, Arrays | None, list[tuple[str, str]]]]:
        """Yield of the pieces that are `wanted` (number, key, arrays with edges or None, rejects), in order.

        Once reading has taken PATIENCE_S, `workers` processes read ahead: to start them takes seconds. The key tells
        a piece from others.
        """
        tasks = ((number, *task) for number, task in enumerate(self.tasks) if wanted(number, task[0]))
        spent = 0.0
        while not workers or spent < PATIENCE_S:
            task = next(tasks, None)
            if task is None:
                return
            number, key, function, arguments = task
            began = time.perf_counter()
            loaded = function(*arguments)
            spent += time.perf_counter() - began
            yield number, key, *loaded
        with Workers(workers) as pool:
            waiting: collections.deque = collections.deque()
            for number, key, function, arguments in tasks:
                waiting.append((number, key, pool.submit(function, *arguments)))
                if len(waiting) > workers + 1:
                    number, key, future = waiting.popleft()
                    yield number, key, *future.result()
            for number, key, future in waiting:
                yield number, key, *future.result()


def open_inputs(given: Any, units: Mapping[str, str], graph: Graph, size: int = PIECE) -> Pieces:
    """Return the pieces of `given`: ase.Atoms, one or several; or paths, one or several, of files, folders or shard
    sets. units: target -> unit of what is to be predicted, which the input may know already.

    Raises InputError where a path does not exist, holds nothing, or is beside paths of the other kind.
    """
    names = list(units)
    # What a file says has no unit, but for ASE's energy, which is in eV.
    comparable = [name for name in names if name != "energy" or units[name] == "eV"]
    if isinstance(given, (str, Path)):
        given = [given]
    if isinstance(given, Atoms):
        given = [given]
    given = list(given)
    if not given:
        raise InputError("there is no structure to predict on")
    if not isinstance(given[0], (str, Path)):
        return _of_source(Given([], comparable, given), names, graph, size)
    paths = [Path(path).expanduser() for path in given]
    if gone := [path for path in paths if not path.exists()]:
        raise InputError(f"{gone[0]}: no such file or folder")
    sets = [path for path in paths if (path / FILE_NAME).exists()]
    tables = [path for path in paths if path.suffix.lower() in (".csv", ".smi") and path.is_file()]
    if len(paths) > 1 and (sets or tables):
        kind = "a shard set" if sets else "a table of SMILES"
        raise InputError(f"{(sets or tables)[0]}: {kind} is predicted on alone: name nothing else beside it")
    if sets:
        return _of_shards(sets[0], units, graph)
    if tables:
        columns = {name: Target(unit=units[name], description="") for name in comparable}
        source = Smiles(tables[0], columns)
        return _of_source(source, names, graph, size)
    return _of_source(Given(paths, comparable), names, graph, size)


def _of_source(source: Any, names: list[str], graph: Graph, size: int) -> Pieces:
    records = unique(source.records())
    first = next(records, None)
    if first is None:
        raise InputError(f"{', '.join(map(str, source.paths))}: holds no structures")
    records = itertools.chain([first], records)
    tasks = ((_key(chunk), to_arrays, (source, chunk, names, graph)) for chunk in chunks(records, size))
    return Pieces(names, tasks, [], said=getattr(source, "said", ""))


def _key(records: Records) -> str:
    return hashlib.sha256("\n".join(id for id, _, _ in records).encode()).hexdigest()


def _of_shards(folder: Path, units: Mapping[str, str], graph: Graph) -> Pieces:
    manifest = read_manifest(folder)
    known, notes = [], []
    for name, unit in units.items():
        if name in manifest.targets and manifest.targets[name].unit == unit:
            known.append(name)
        elif name in manifest.targets:
            theirs = manifest.targets[name].unit
            notes.append(f"{folder}: its {name} is in {theirs}, the model's in {unit}: they are not compared")
    shards = enumerate(manifest.shards)
    tasks = ((shard.sha256, read_shard, (folder, manifest, i, known, list(units), graph)) for i, shard in shards)
    return Pieces(list(units), tasks, notes, manifest.graphs)


def read_shard(
    folder: Path, manifest: Manifest, place: int, known: list[str], names: list[str], graph: Graph
) -> Loaded:
    """Read one shard of a set, with the edges that `graph` asks for, whatever edges it stores."""
    arrays = read_shard_set(folder, manifest, [place], known)
    missing = np.full(len(arrays.ids), np.nan)
    arrays.targets = {name: arrays.targets.get(name, missing) for name in names}
    if arrays.src is not None and not manifest.other_graph(graph.model_dump()):
        return arrays, []
    try:
        add_edges(arrays, graph)
    except RejectedError:  # one of them: each by itself, to tell which
        return to_arrays(Stored(arrays), [(id.decode(), i, "") for i, id in enumerate(arrays.ids)], names, graph)
    return arrays, []


@dataclass
class Stored:
    """The structures of a shard, as a source."""

    arrays: Arrays

    def convert(self, id: str, raw: int) -> Structure:
        arrays, atoms = self.arrays, slice(*self.arrays.atom_ptr[raw : raw + 2])
        known = {name: float(values[raw]) for name, values in arrays.targets.items()}
        forces = None if arrays.forces is None else arrays.forces[atoms]
        return Structure(id, arrays.z[atoms], arrays.pos[atoms], known, arrays.cell[raw], arrays.pbc[raw], forces)
