"""Gets the batches of an epoch to the training loop: from memory, from a staged copy that the ranks of a node
share, or from shards read a window at a time.

Not for: the order of batches (sampling.py).
"""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpc_kit import machine
from hpc_kit.data.batches import GraphBatch, GraphStore, read_with_edges
from hpc_kit.data.manifest import Manifest, read_manifest
from hpc_kit.data.sampling import Limits, Window, cut, plan_in_memory, plan_stream, share
from hpc_kit.data.shards import read_ids, read_targets
from hpc_kit.data.staging import open_staged
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError


class Dataset:
    """A shard set that is open for training.

    ids [G] bytes, targets [G, T] in their units, atoms_per_graph and edges_per_graph [G]; `batches` and `in_order`
    yield batches. window None keeps the whole set in memory (or mapped from `stage`, a folder on the node that all
    its ranks share); a number streams that many shards at a time.
    """

    def __init__(
        self, folder: Path, targets: list[str], graph: Graph, stage: Path | None = None, window: int | None = None
    ):
        self._folder, self._graph, self._names, self._window = folder, graph, targets, window
        self.manifest = manifest = read_manifest(folder)
        self._starts = np.cumsum([0] + [shard.graphs for shard in manifest.shards])
        self._store = None
        if window is None:
            if stage:
                arrays = open_staged(folder, manifest, graph, stage)
            else:
                _check_memory(folder, manifest)
                arrays = read_with_edges(folder, manifest, graph, targets=targets)
            self._store = store = GraphStore(arrays, targets)
            self.ids, self.targets = store.ids, store.targets
            self.atoms_per_graph, self.edges_per_graph = store.atoms_per_graph, store.edges_per_graph
        elif manifest.graph is None:
            raise InputError(f"{folder}: stores no edges, and streaming needs them: prepare it with a cutoff")
        else:
            self.ids = read_ids(folder, manifest.shards)
            known = read_targets(folder, manifest, targets)
            self.targets = np.stack([known[name] for name in targets], axis=1)
            self.atoms_per_graph = np.array(manifest.atoms_per_graph)
            self.edges_per_graph = np.array(manifest.edges_per_graph)

    def __len__(self) -> int:
        return len(self.ids)

    def plan(self, index: np.ndarray, limits: Limits, seed: int, epoch: int) -> list[Window]:
        """Return the batches of an epoch over the graphs `index`; see sampling.py."""
        common = (index, limits, self.atoms_per_graph, self.edges_per_graph, seed, epoch)
        if self._window is None:
            return plan_in_memory(*common)
        return plan_stream(*common, self._starts, self._window)

    def batches(
        self, plan: list[Window], start: int = 0, rank: int = 0, ranks: int = 1, pin: bool = False, ahead: int = 2
    ) -> Iterator[GraphBatch]:
        """Yield this rank's share of every batch from number `start` of the plan on; a share may hold 0 graphs.

        `ahead` batches are assembled in a thread while the caller works; 0 assembles on demand.
        """
        batches = self._assemble(plan, start, rank, ranks, pin)
        return _ahead(batches, ahead) if ahead else batches

    def in_order(
        self, index: np.ndarray, limits: Limits, rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[np.ndarray, GraphBatch]]:
        """Yield every graph of `index` once among all ranks, as (its graph numbers, batch), for evaluation and
        prediction: every `ranks`-th batch is this rank's."""
        sizes = (limits, self.atoms_per_graph, self.edges_per_graph)
        if self._store is not None:
            for part in cut(index, *sizes)[rank::ranks]:
                yield part, self._store.batch(part)
            return
        shard_of = np.searchsorted(self._starts, index, side="right") - 1
        before = 0
        for shard in np.unique(shard_of):
            parts = cut(index[shard_of == shard], *sizes)
            mine = parts[(rank - before) % ranks :: ranks]
            before += len(parts)
            if mine:
                store, lookup = self._load([int(shard)])
                for part in mine:
                    yield part, store.batch(lookup(part))

    def _assemble(self, plan: list[Window], start: int, rank: int, ranks: int, pin: bool) -> Iterator[GraphBatch]:
        first = 0
        for window in plan:
            todo = window.batches[max(0, start - first) :]
            first += len(window.batches)
            if not todo:
                continue
            store, lookup = (self._store, None) if window.shards is None else self._load(window.shards)
            for members in todo:
                mine = share(members, rank, ranks)
                batch = store.batch(mine if lookup is None else lookup(mine))
                yield batch.pin_memory() if pin else batch

    def _load(self, shards: list[int]):
        """Read some shards; return their store and the way from a graph's number in the set to that in the store."""
        which = {"only": shards, "targets": self._names, "names": False}
        arrays = read_with_edges(self._folder, self.manifest, self._graph, **which)
        store = GraphStore(arrays, self._names)
        starts = self._starts[shards]
        offsets = np.cumsum([0] + [self.manifest.shards[s].graphs for s in shards])

        def lookup(index: np.ndarray) -> np.ndarray:
            place = np.searchsorted(starts, index, side="right") - 1
            return index - starts[place] + offsets[place]

        return store, lookup


def _check_memory(folder: Path, manifest: Manifest) -> None:
    """Raise InputError where a set does not fit into half of the memory this process may use."""
    memory = machine.memory()
    limits = [memory["cgroup_limit_mb"], memory["total_gb"] and memory["total_gb"] * 1024]
    usable = min((limit for limit in limits if limit), default=None)
    needed = sum(25 * s.atoms + 11 * s.edges + 200 * s.graphs for s in manifest.shards) / 2**20
    if usable is not None and needed > usable / 2:
        largest = max(25 * s.atoms + 11 * s.edges for s in manifest.shards) / 2**20
        raise InputError(
            f"{folder}: needs {needed:.0f} MB in memory and half of the {usable} MB here may be used; data.window:"
            f" {max(1, int(usable / 8 / largest))} streams that many shards at a time"
        )


def _ahead(items: Iterator, depth: int) -> Iterator:
    """Run `items` in a thread, up to `depth` ahead; its exceptions are raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()
    end = object()

    def put(item) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
