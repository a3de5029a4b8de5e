"""From a trained model and structures to maps of atoms: `Explainer.load("runs/x").explain("molecules.xyz")`.

Not for: one model on one batch (attribution.py), or files (output.py).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.sampling import Limits, cut
from hpc_kit.data.shards import Arrays, concatenate
from hpc_kit.explain.attribution import METHODS, SIGNED, Attributed, attribute
from hpc_kit.predict.inputs import open_inputs
from hpc_kit.predict.predictor import BATCH, Members, Predictor, nothing_left
from hpc_kit.spec.errors import InputError, WorkError, allowed


@dataclass
class Explained(Members):
    """The maps of n structures with A atoms in all, by M models of an ensemble.

    maps: method -> [M, A]; prediction [M, n], truth [n] (NaN: not known), baseline: part -> [M, n], remainder:
    method -> [M, n], as in attribution.Attributed. arrays and index: the structures; index[i] in arrays is ids[i].
    """

    ids: list[str]
    unit: str
    maps: dict[str, np.ndarray]
    prediction: np.ndarray
    truth: np.ndarray
    baseline: dict[str, np.ndarray]
    remainder: dict[str, np.ndarray]
    arrays: Arrays
    index: np.ndarray
    rejects: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def z(self) -> np.ndarray:
        """[A]: atomic numbers."""
        return self.arrays.z[self.atoms]


class Explainer:
    """A trained model, or an ensemble of models that differ in their seed alone, whose predictions of one target are
    explained. `label` is what it is called in what comes out."""

    def __init__(
        self,
        predictor: Predictor,
        target: str | None = None,
        methods: Collection[str] = ("cam",),
        relu: bool = False,
        label: str | None = None,
    ):
        self.predictor, self.methods, self.relu = predictor, check_methods(methods), relu
        self.target = _target(predictor, target)
        self.place = list(predictor.units).index(self.target)
        self.unit, self.label = predictor.units[self.target], label or predictor.spec.name
        self.exact = all(member.model.linear_head for member in predictor.members)
        self.is_energy = self.target == predictor.energy

    @classmethod
    def load(
        cls,
        path: Path | str,
        target: str | None = None,
        methods: Collection[str] = ("cam",),
        relu: bool = False,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        modules: Sequence[str] = (),
    ) -> "Explainer":
        """Load a best.pt, a task directory, or a run. target None: the only one the model has. Raises InputError."""
        return cls(Predictor.load(path, device, precision, modules), target, methods, relu)

    def explain(self, structures, allow_unseen: bool = False, limits: Limits = BATCH) -> Explained:
        """Return the maps for ASE Atoms, files, folders or a shard set. Raises InputError where none can be made."""
        pieces = open_inputs(structures, self.predictor.units, self.predictor.graph)
        parts = [self.of_arrays(*loaded[2:], allow_unseen, limits) for loaded in pieces.load()]
        rejects = [reject for part in parts if part for reject in part.rejects]
        full = [part for part in parts if len(part)]
        if not full:
            raise nothing_left(rejects)
        return _join(full, rejects)

    def of_arrays(
        self,
        arrays: Arrays | None,
        rejects: Iterable[tuple[str, str]] = (),
        allow_unseen: bool = False,
        limits: Limits = BATCH,
        only: np.ndarray | None = None,
    ) -> Explained:
        """Return the maps for the graphs in `arrays` (with edges), or for those with the numbers `only`."""
        rejects = list(rejects)
        if arrays is None:
            return self._nothing(arrays, rejects)
        names = [id.decode() for id in arrays.ids]
        _, wrong = self.predictor.suits(arrays, allow_unseen)
        wanted = np.arange(len(names)) if only is None else only
        index = np.array([i for i in wanted if i not in wrong], dtype=np.int64)
        rejects += [(names[i], wrong[i]) for i in wanted.tolist() if i in wrong]
        store = GraphStore(arrays, list(self.predictor.units))
        found = [
            one
            for members in cut(index, limits, store.atoms_per_graph, store.edges_per_graph)
            for one in self._of_members(store, members)
        ]
        if not found:
            return self._nothing(arrays, rejects)
        explained = Explained(
            ids=[names[i] for i in index],
            unit=self.unit,
            maps={name: _beside(found, lambda one, name=name: one.maps[name]) for name in self.methods},
            prediction=_beside(found, lambda one: one.prediction),
            truth=store.targets[index, self.place],
            baseline={k: _beside(found, lambda one, k=k: one.baseline[k]) for k in found[0][0].baseline},
            remainder={k: _beside(found, lambda one, k=k: one.remainder[k]) for k in found[0][0].remainder},
            arrays=arrays,
            index=index,
            rejects=rejects,
        )
        return _finite(explained)

    def maps(self, number: int, batch: GraphBatch) -> Attributed:
        """Return the maps of the model with this number in the ensemble on one batch, on its device."""
        member = self.predictor.members[number]
        return attribute(member.model, member.scale, batch, self.place, self.methods, self.relu)

    def _of_members(self, store: GraphStore, members: np.ndarray) -> list[list[Attributed]]:
        """Return what each model says of these graphs, in one part or, where memory is too small, in several."""
        try:
            batch = self.predictor.ready(store.batch(members))
            return [[self.maps(number, batch) for number in range(len(self.predictor.members))]]
        except torch.cuda.OutOfMemoryError as error:
            if len(members) == 1:
                name, atoms = store.ids[members[0]].decode(), store.atoms_per_graph[members[0]]
                raise WorkError(f"{name}: {atoms} atoms do not fit into the memory of the device") from error
        half = len(members) // 2
        return [*self._of_members(store, members[:half]), *self._of_members(store, members[half:])]

    def _nothing(self, arrays: Arrays | None, rejects: list[tuple[str, str]]) -> Explained:
        none = np.zeros((len(self.predictor.members), 0))
        empty = {name: none for name in self.methods}
        return Explained([], self.unit, empty, none, none[0], {}, {}, arrays, np.zeros(0, np.int64), rejects)


def check_methods(methods: Collection[str]) -> tuple[str, ...]:
    """Return the methods. Raises InputError where one is unknown or named twice."""
    for name in methods:
        if name not in METHODS:
            raise InputError(f"method {name!r}: {allowed(name, METHODS)}")
    if len(set(methods)) < len(methods):
        raise InputError(f"methods: one is named twice ({', '.join(methods)})")
    return tuple(methods)


def unit_of(method: str, unit: str, is_energy: bool = False) -> str:
    """Return the unit that a map is in, and what it is where it has a name of its own."""
    if method in SIGNED:
        return unit
    if method == "positions":
        return f"{unit}/Angstrom{' (length of the force)' if is_energy else ''}"
    return f"{unit} per unit of the element's embedding"


def _target(predictor: Predictor, target: str | None) -> str:
    names = list(predictor.units)
    if target is None:
        if len(names) > 1:
            raise InputError(f"the model predicts {', '.join(names)}: name the target to explain")
        return names[0]
    if target not in names:
        raise InputError(
            f"target {target!r}: {predictor.members[0].path} was not trained on it, but on {', '.join(names)}"
        )
    return target


def _beside(found: list[list[Attributed]], value) -> np.ndarray:
    """Return what all batches hold, one row a model."""
    return torch.cat([torch.stack([value(one) for one in models]) for models in found], dim=1).cpu().numpy()


def _finite(found: Explained) -> Explained:
    """Move to the rejects what the model gives no finite numbers for."""
    ptr = found.atom_ptr
    graph = np.repeat(np.arange(len(found)), np.diff(ptr))
    good = np.isfinite(found.prediction).all(axis=0)
    for values in found.maps.values():
        good[graph[~np.isfinite(values).all(axis=0)]] = False
    if good.all():
        return found
    odd = [(found.ids[i], "the model predicts no finite number for it") for i in np.flatnonzero(~good)]
    return Explained(
        ids=[id for id, keep in zip(found.ids, good, strict=True) if keep],
        unit=found.unit,
        maps={k: v[:, good[graph]] for k, v in found.maps.items()},
        prediction=found.prediction[:, good],
        truth=found.truth[good],
        baseline={k: v[:, good] for k, v in found.baseline.items()},
        remainder={k: v[:, good] for k, v in found.remainder.items()},
        arrays=found.arrays,
        index=found.index[good],
        rejects=[*found.rejects, *odd],
    )


def _join(parts: list[Explained], rejects: list[tuple[str, str]]) -> Explained:
    starts = np.cumsum([0] + [len(part.arrays.ids) for part in parts])[:-1]

    def joined(name: str) -> dict[str, np.ndarray]:
        return {
            k: np.concatenate([getattr(part, name)[k] for part in parts], axis=1) for k in getattr(parts[0], name)
        }

    return Explained(
        ids=[id for part in parts for id in part.ids],
        unit=parts[0].unit,
        maps=joined("maps"),
        prediction=np.concatenate([part.prediction for part in parts], axis=1),
        truth=np.concatenate([part.truth for part in parts]),
        baseline=joined("baseline"),
        remainder=joined("remainder"),
        arrays=concatenate([part.arrays for part in parts]),
        index=np.concatenate([part.index + start for part, start in zip(parts, starts, strict=True)]),
        rejects=rejects,
    )
