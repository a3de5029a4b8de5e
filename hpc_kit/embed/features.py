"""What models have learned of structures: the features of the last layer before atoms are pooled, pooled to one row a
structure, with prediction and true value; in memory and on disk.

Not for: maps of them (maps.py), or how rough a property is over them (roughness.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.sampling import Limits, cut
from hpc_kit.data.shards import Arrays
from hpc_kit.explain.output import write_whole
from hpc_kit.models.layers import sum_by_graph
from hpc_kit.predict.predictor import Predictor
from hpc_kit.spec.errors import WorkError


@dataclass
class Features:
    """n structures as one model sees them. features [n, F] float32; prediction, truth: target -> [n] (truth NaN: not
    known); z [A], pos [A, 3] Angstrom, atom_ptr [n+1], pbc [n]: the structures; rejects: (id, reason)."""

    ids: list[str]
    features: np.ndarray
    prediction: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    z: np.ndarray
    pos: np.ndarray
    atom_ptr: np.ndarray
    pbc: np.ndarray
    rejects: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, wanted: np.ndarray) -> "Features":
        """Return the structures with these numbers, in their order."""
        counts = np.diff(self.atom_ptr)[wanted]
        atoms = np.concatenate([np.arange(*self.atom_ptr[i : i + 2]) for i in wanted] or [np.empty(0, np.int64)])
        return Features(
            ids=[self.ids[i] for i in wanted],
            features=self.features[wanted],
            prediction={k: v[wanted] for k, v in self.prediction.items()},
            truth={k: v[wanted] for k, v in self.truth.items()},
            z=self.z[atoms],
            pos=self.pos[atoms],
            atom_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            pbc=self.pbc[wanted],
            rejects=self.rejects,
        )


class Embedder:
    """Gives the features of one model, pooled as `pool` says: sum, mean, or readout, as the model reads out."""

    def __init__(self, predictor: Predictor, targets: Iterable[str], pool: str, limits: Limits, allow_unseen: bool):
        self.predictor, self.limits, self.allow_unseen = predictor, limits, allow_unseen
        self.places = {name: list(predictor.units).index(name) for name in targets}
        self.pool = pool
        if pool == "readout":
            self.pool = "sum" if predictor.spec.sums_over_atoms else "mean"

    def of_batch(self, batch: GraphBatch) -> tuple[np.ndarray, np.ndarray]:
        """Return features [G, F] and predictions [G, T] of a batch on the model's device. Raises InputError where the
        model is a module of the user's own that has no embed and no head."""
        member = self.predictor.members[0]
        with torch.no_grad():
            embed, head = member.model.parts(batch)
            features = embed(batch)
            prediction = member.scale.restore(head(features, batch), batch)
            pooled = sum_by_graph(features, batch.graph_of_atom(), batch.graphs)
            if self.pool == "mean":
                pooled = pooled / batch.atom_ptr.diff().unsqueeze(1)
        return pooled.float().cpu().numpy(), prediction.double().cpu().numpy()

    def of_arrays(
        self, arrays: Arrays | None, rejects: Iterable[tuple[str, str]], only: np.ndarray | None
    ) -> Features | None:
        """Return the features of the graphs in `arrays` (with edges), or of those with the numbers `only`."""
        rejects = list(rejects)
        if arrays is None:
            return _none(rejects)
        _, wrong = self.predictor.suits(arrays, self.allow_unseen)
        names = [id.decode() for id in arrays.ids]
        wanted = np.arange(len(names)) if only is None else only
        index = np.array([i for i in wanted.tolist() if i not in wrong], dtype=np.int64)
        rejects += [(names[i], wrong[i]) for i in wanted.tolist() if i in wrong]
        store = GraphStore(arrays, list(self.predictor.units))
        found = [
            one
            for members in cut(index, self.limits, store.atoms_per_graph, store.edges_per_graph)
            for one in self._of_members(store, members)
        ]
        if not found:
            return _none(rejects)
        features, prediction = (np.concatenate(each) for each in zip(*found, strict=True))
        made = Features(
            ids=names,
            features=np.zeros((0, 0)),
            prediction={},
            truth={name: store.targets[:, place] for name, place in self.places.items()},
            z=arrays.z,
            pos=arrays.pos,
            atom_ptr=arrays.atom_ptr,
            pbc=arrays.pbc.any(axis=1),
        )
        finite = np.isfinite(features).all(axis=1) & np.isfinite(prediction).all(axis=1)
        rejects += [(names[i], "the model gives no finite numbers for it") for i in index[~finite].tolist()]
        made.features = np.zeros((len(names), features.shape[1]), np.float32)
        made.features[index] = features
        for name, place in self.places.items():
            made.prediction[name] = np.full(len(names), np.nan)
            made.prediction[name][index] = prediction[:, place]
        made = made.rows(index[finite])
        made.rejects = rejects
        return made

    def _of_members(self, store: GraphStore, members: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        try:
            return [self.of_batch(self.predictor.ready(store.batch(members)))]
        except torch.cuda.OutOfMemoryError as error:
            if len(members) == 1:
                name, atoms = store.ids[members[0]].decode(), store.atoms_per_graph[members[0]]
                raise WorkError(f"{name}: {atoms} atoms do not fit into the memory of the device") from error
        half = len(members) // 2
        return [*self._of_members(store, members[:half]), *self._of_members(store, members[half:])]


def _none(rejects: list[tuple[str, str]]) -> Features:
    none = np.zeros(0)
    return Features([], none, {}, {}, none, none, np.zeros(1, np.int64), none, rejects)


def join(parts: list[Features]) -> Features:
    """Return several pieces' features as one; those without a structure give their rejects."""
    rejects = [reject for part in parts for reject in part.rejects]
    full = [part for part in parts if len(part)]
    if not full:
        return _none(rejects)
    counts = np.concatenate([np.diff(part.atom_ptr) for part in full])

    def joined(give: Callable[[Features], np.ndarray]) -> np.ndarray:
        return np.concatenate([give(part) for part in full])

    return Features(
        ids=[id for part in full for id in part.ids],
        features=joined(lambda part: part.features),
        prediction={k: joined(lambda part, k=k: part.prediction[k]) for k in full[0].prediction},
        truth={k: joined(lambda part, k=k: part.truth[k]) for k in full[0].truth},
        z=joined(lambda part: part.z),
        pos=joined(lambda part: part.pos),
        atom_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        pbc=joined(lambda part: part.pbc),
        rejects=rejects,
    )


_PLAIN = ("features", "z", "pos", "atom_ptr", "pbc")


def write_features(path: Path, found: Features, label: str, units: dict[str, str]) -> None:
    """Write the features of one model, whole or not at all. Raises WorkError."""
    with h5py.File("features", "w", driver="core", backing_store=False) as file:
        file.attrs["model"] = label
        text = h5py.string_dtype()
        file.create_dataset("ids", data=np.array(found.ids, dtype=object).astype(text))
        rejects = np.array(found.rejects, dtype=object).reshape(-1, 2).astype(text)
        file.create_dataset("rejects", data=rejects)
        for name in _PLAIN:
            file.create_dataset(name, data=getattr(found, name))
        for table in ("prediction", "truth"):
            for name, values in getattr(found, table).items():
                file.create_dataset(f"{table}/{name}", data=values).attrs["unit"] = units[name]
        file.flush()
        write_whole(path, file.id.get_file_image())


def read_features(path: Path) -> Features:
    """Read what write_features wrote."""
    with h5py.File(path) as file:
        tables = {t: {k: v[:] for k, v in file[t].items()} for t in ("prediction", "truth")}
        rejects = [tuple(row) for row in file["rejects"].asstr()[:].tolist()]
        plain = {name: file[name][:] for name in _PLAIN}
        return Features(list(file["ids"].asstr()[:]), rejects=rejects, **plain, **tables)
