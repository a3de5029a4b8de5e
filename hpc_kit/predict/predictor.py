"""From a checkpoint to numbers: the one way. `Predictor.load("runs/x").predict("molecules.xyz")`."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.features import ELEMENTS, element_table
from hpc_kit.data.rejects import commonest
from hpc_kit.data.sampling import Limits, cut
from hpc_kit.data.shards import Arrays
from hpc_kit.predict.inputs import Pieces, open_inputs
from hpc_kit.predict.weights import find_weights
from hpc_kit.spec.errors import InputError, WorkError, allowed
from hpc_kit.train.best import Best, read_best
from hpc_kit.train.evaluate import FORCE_UNIT

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
BATCH = Limits(128, edges=65536)


class Members:
    """Structures of `arrays`, those whose places there are in `index`."""

    arrays: Arrays
    index: np.ndarray

    @property
    def atom_ptr(self) -> np.ndarray:
        """[n+1]: where the atoms of each structure begin in what holds a row an atom."""
        return np.concatenate([[0], np.cumsum(np.diff(self.arrays.atom_ptr)[self.index])]).astype(np.int64)

    @property
    def atoms(self) -> np.ndarray:
        """[A]: the places in `arrays` of the atoms of all structures, in their order."""
        ptr = self.arrays.atom_ptr
        return np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in self.index] or [np.empty(0, np.int64)])


@dataclass
class Predicted(Members):
    """What is predicted for n structures of A atoms in all.

    ids [n]; units: target -> unit; values [n, T] in these; forces [A, 3] eV/Angstrom, where asked for. std,
    forces_std: standard deviation over the models of an ensemble (divided by their number less one), None of one
    model. truth [n, T] and true_forces [A, 3]: what the input says of itself, NaN where it is silent. unseen [n]: the
    symbols of elements that the training never saw, "" where it saw all. arrays and index: the structures;
    index[i] in arrays is ids[i]. rejects: (id, reason) of those that cannot be predicted.
    """

    ids: list[str]
    units: dict[str, str]
    values: np.ndarray
    truth: np.ndarray
    unseen: list[str]
    arrays: Arrays
    index: np.ndarray
    std: np.ndarray | None = None
    forces: np.ndarray | None = None
    forces_std: np.ndarray | None = None
    rejects: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, target: str) -> np.ndarray:
        """Return [n]: the values of one target."""
        return self.values[:, list(self.units).index(target)]

    @property
    def true_forces(self) -> np.ndarray | None:
        return None if self.arrays.forces is None else self.arrays.forces[self.atoms]


class Predictor:
    """A trained model, or an ensemble of models that differ in their seed alone, on one device.

    units: target -> unit; graph: the rule of neighbours; elements: atomic numbers that the training saw, of the data
    set with the identity dataset_sha256; forces: trained on them; notes: what a user should know of the weights.
    """

    def __init__(self, members: Sequence[Best], device: torch.device | str | None = None, precision: str = "fp32"):
        first = members[0]
        for other in members[1:]:
            for what in ("spec", "graph", "units", "forces", "dataset_sha256"):
                if getattr(other, what) != getattr(first, what):
                    raise InputError(f"{other.path}: differs in its {what} from {first.path}: they make no ensemble")
        self.members, self.notes = list(members), []
        self.spec, self.graph, self.units, self.forces = first.spec, first.graph, first.units, first.forces
        self.elements, self.periodic, self.dataset_sha256 = first.elements, first.periodic, first.dataset_sha256
        self.device, self.dtype = _device(device), _dtype(precision)
        self.objectives = [member.objective().to(self.device) for member in members]
        for objective in self.objectives:
            objective.model.to(self.dtype)
            objective.forces = False  # they are derived where they are asked for
        self._described = np.ones(ELEMENTS, bool)
        if self.spec.element_features:
            table = element_table()
            self._described[: len(table)] = np.isfinite(table).all(axis=1)

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        modules: Sequence[str] = (),
    ) -> "Predictor":
        """Load a best.pt, a task directory, or a run, whose seeds make an ensemble.

        device None: a GPU where torch sees one, else the CPU. precision: fp32, or fp64 for differences of energies.
        modules: modules of your own that may be imported, such as "package.module:Class". Raises InputError.
        """
        _dtype(precision)
        found = find_weights(Path(path).expanduser())
        predictor = cls([read_best(file, modules) for file in found.paths], device, precision)
        predictor.notes = found.notes
        return predictor

    @property
    def energy(self) -> str | None:
        """The target whose gradient forces are: that which was trained with forces, or one called "energy" in eV."""
        if self.forces:
            return next(iter(self.units))
        return "energy" if self.units.get("energy") == "eV" else None

    def predict(
        self,
        structures: Atoms | Iterable[Atoms] | Path | str | Sequence[Path | str],
        forces: bool | None = None,
        allow_unseen: bool = False,
        limits: Limits = BATCH,
        workers: int = 0,
    ) -> Predicted:
        """Return the predictions for ASE Atoms, files, folders or shard sets (docs/predict.md).

        forces None: where the model was trained on them; True: also of a model that was not, if it has an `energy`.
        Structures that cannot be used are in `rejects` of what is returned. Raises InputError where none can be.
        """
        pieces = open_inputs(structures, self.units, self.graph)
        found = join(self.each(pieces, forces, allow_unseen, limits, workers), self.units)
        if not len(found):
            raise nothing_left(found.rejects)
        return found

    def each(
        self,
        pieces: Pieces,
        forces: bool | None = None,
        allow_unseen: bool = False,
        limits: Limits = BATCH,
        workers: int = 0,
    ) -> Iterator[Predicted]:
        """Yield the predictions for one piece of the input after another; `workers` processes read where that takes
        long."""
        forces = self._wants(forces)
        with contextlib.closing(pieces.load(workers)) as loaded:
            for _, _, arrays, rejects in loaded:
                yield self.of_arrays(arrays, rejects, forces, allow_unseen, limits)

    def of_arrays(
        self,
        arrays: Arrays | None,
        rejects: Sequence[tuple[str, str]],
        forces: bool | None = None,
        allow_unseen: bool = False,
        limits: Limits = BATCH,
    ) -> Predicted:
        """Return the predictions for the graphs in `arrays` (with edges, and a target for each of `units`), but for
        those in `rejects` and those that this model is not for."""
        forces = self._wants(forces)
        if arrays is None:
            return _nothing(self.units, rejects)
        names = [id.decode() for id in arrays.ids]
        unseen, wrong = self.suits(arrays, allow_unseen)
        rejects = [*rejects, *((names[i], reason) for i, reason in wrong.items())]
        index = np.array([i for i in range(len(names)) if i not in wrong], dtype=np.int64)
        store = GraphStore(arrays, list(self.units))
        parts = []
        for members in cut(index, limits, store.atoms_per_graph, store.edges_per_graph):
            parts += self._numbers(store, members, forces)
        if not parts:
            return _nothing(self.units, rejects)
        values = np.concatenate([part[0] for part in parts], axis=1)
        pushes = np.concatenate([part[1] for part in parts], axis=1) if forces else None
        finite = np.isfinite(values).all(axis=(0, 2))
        if pushes is not None:
            graph = np.repeat(np.arange(len(index)), store.atoms_per_graph[index])
            finite[graph[~np.isfinite(pushes).all(axis=(0, 2))]] = False
            pushes = pushes[:, finite[graph]]
        rejects += [(names[i], "the model predicts no finite number for it") for i in index[~finite]]
        index, values = index[finite], values[:, finite]
        several = len(self.members) > 1
        return Predicted(
            ids=[names[i] for i in index],
            units=self.units,
            values=values.mean(axis=0),
            truth=store.targets[index],
            unseen=[unseen.get(i, "") for i in index.tolist()],
            arrays=arrays,
            index=index,
            std=values.std(axis=0, ddof=1) if several else None,
            forces=None if pushes is None else pushes.mean(axis=0),
            forces_std=pushes.std(axis=0, ddof=1) if several and pushes is not None else None,
            rejects=rejects,
        )

    def of_batch(self, batch: GraphBatch, target: str, strain: bool = False) -> tuple[np.ndarray, ...]:
        """Return of each model (predictions [M, G, T], forces [M, N, 3], derivative by strain [M, G, 3, 3] or None)
        on one batch, derived from `target`; see Objective.derive."""
        place, batch = list(self.units).index(target), self.ready(batch)
        found = zip(*(objective.derive(batch, place, strain) for objective in self.objectives), strict=True)
        return tuple(None if each[0] is None else torch.stack(each).cpu().numpy() for each in found)

    def reason_against(self, z: np.ndarray, pbc: np.ndarray, allow_unseen: bool) -> tuple[str, str]:
        """Return (why this model is not for a structure of these elements, "" where it is; the symbols it never saw).

        z [n] atomic numbers, pbc [3].
        """
        present = np.unique(z)
        unknown = _symbols(present[~self._described[present]])
        unseen = _symbols(present[~np.isin(present, self.elements)])
        if unknown:
            return f"holds {unknown}, for which the model {self.spec.name} has no element features", unseen
        if unseen and not allow_unseen:
            hint = "--allow-unseen predicts it all the same, and marks it"
            return f"holds {unseen}, which the training never saw; {hint}", unseen
        if np.any(pbc) and (self.periodic is False or getattr(self.spec, "electrostatics", False)):
            return "is periodic, and the model was trained on molecules", unseen
        return "", unseen

    def suits(self, arrays: Arrays, allow_unseen: bool) -> tuple[dict[int, str], dict[int, str]]:
        """Return number -> symbols never seen, and number -> why the model is not for it, of graphs with either."""
        graph = np.repeat(np.arange(len(arrays.ids)), np.diff(arrays.atom_ptr))
        known = np.zeros(ELEMENTS, bool)
        known[self.elements] = True
        odd = np.zeros(len(arrays.ids), bool)
        odd[graph[~(known & self._described)[arrays.z]]] = True
        odd |= arrays.pbc.any(axis=1) & bool(self.reason_against(np.array(self.elements), np.ones(3), True)[0])
        unseen, wrong = {}, {}
        for i in np.flatnonzero(odd).tolist():
            atoms = slice(arrays.atom_ptr[i], arrays.atom_ptr[i + 1])
            reason, symbols = self.reason_against(arrays.z[atoms], arrays.pbc[i], allow_unseen)
            unseen |= {i: symbols} if symbols else {}
            wrong |= {i: reason} if reason else {}
        return unseen, wrong

    def _numbers(self, store: GraphStore, members: np.ndarray, forces: bool) -> list[tuple]:
        """Return the predictions of all models, [M, n, T] and [M, A, 3] or None, in one part or, where the device's
        memory is too small for all, in several."""
        try:
            batch = self.ready(store.batch(members))
            if forces:
                place = list(self.units).index(self.energy)
                each = [objective.derive(batch, place)[:2] for objective in self.objectives]
            else:
                with torch.no_grad():
                    each = [(objective.predict(batch)[0], None) for objective in self.objectives]
            values, pushes = zip(*each, strict=True)
            values = torch.stack(values).cpu().numpy()
            return [(values, torch.stack(pushes).cpu().numpy() if forces else None)]
        except torch.cuda.OutOfMemoryError as error:
            if len(members) == 1:
                name, atoms = store.ids[members[0]].decode(), store.atoms_per_graph[members[0]]
                raise WorkError(f"{name}: {atoms} atoms do not fit into the memory of {self.device}") from error
        half = len(members) // 2
        return [*self._numbers(store, members[:half], forces), *self._numbers(store, members[half:], forces)]

    def ready(self, batch: GraphBatch) -> GraphBatch:
        """Return the batch on the model's device, in its precision."""
        batch = batch.to(self.device)
        if batch.pos.dtype != self.dtype:
            batch.pos, batch.cell = batch.pos.to(self.dtype), batch.cell.to(self.dtype)
        return batch

    def _wants(self, forces: bool | None) -> bool:
        if forces and self.energy is None:
            raise InputError(
                f"forces: the model predicts {', '.join(self.units)} and was not trained on forces; only a target"
                ' called "energy", in eV, has a gradient that is a force'
            )
        return self.forces if forces is None else forces


def join(parts: Iterable[Predicted], units: dict[str, str]) -> Predicted:
    """Return several pieces' predictions as one."""
    from hpc_kit.data.shards import concatenate

    parts = list(parts)
    full = [part for part in parts if len(part)]
    rejects = [reject for part in parts for reject in part.rejects]
    if not full:
        return _nothing(units, rejects)
    starts = np.cumsum([0] + [len(part.arrays.ids) for part in full])[:-1]

    def stacked(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in full]
        return None if values[0] is None else np.concatenate(values)

    return Predicted(
        ids=[id for part in full for id in part.ids],
        units=units,
        unseen=[symbols for part in full for symbols in part.unseen],
        arrays=concatenate([part.arrays for part in full]),
        index=np.concatenate([part.index + start for part, start in zip(full, starts, strict=True)]),
        rejects=rejects,
        **{name: stacked(name) for name in ("values", "truth", "std", "forces", "forces_std")},
    )


def nothing_left(rejects: Sequence[tuple[str, str]]) -> InputError:
    """Return the error for an input of which no structure can be predicted."""
    if len(rejects) == 1:
        return InputError(f"{rejects[0][0]}: {rejects[0][1]}")
    return InputError(f"none of {len(rejects)} structures can be predicted: {commonest(r for _, r in rejects)}")


def _nothing(units: dict[str, str], rejects: Sequence[tuple[str, str]]) -> Predicted:
    none = np.zeros((0, len(units)))
    empty = Arrays(
        z=np.zeros(0, np.uint8),
        pos=np.zeros((0, 3), np.float32),
        atom_ptr=np.zeros(1, np.int64),
        cell=np.zeros((0, 3, 3), np.float32),
        pbc=np.zeros((0, 3), bool),
        targets={},
        ids=np.zeros(0, "S1"),
    )
    return Predicted([], units, none, none, [], empty, np.zeros(0, np.int64), rejects=list(rejects))


def _dtype(precision: str) -> torch.dtype:
    if precision not in DTYPES:
        raise InputError(f"precision {precision!r}: {allowed(precision, DTYPES)}")
    return DTYPES[precision]


def _device(device: Any) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r}: must be cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device}: torch sees no GPU here")
    return chosen


def _symbols(numbers: np.ndarray) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


__all__ = ["BATCH", "FORCE_UNIT", "Predicted", "Predictor", "join", "nothing_left"]
