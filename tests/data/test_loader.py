"""Data sets in memory, staged and streamed give the same graphs; what waits in a thread fails in the caller."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from conftest import ListSource

from hpc_kit.data import loader
from hpc_kit.data.loader import Dataset
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.sampling import Limits
from hpc_kit.data.structures import Structure
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError

GRAPH = Graph(cutoff=4.0)
NAMES = ["CH3CH2OH", "C6H6", "H2O", "NH3", "CH4"]


def structures() -> list[Structure]:
    made = []
    for i in range(60):
        atoms = bulk("NaCl", "rocksalt", a=5.5 + i / 100) if i % 7 == 0 else molecule(NAMES[i % 5])
        rng = np.random.default_rng(i)
        pos = atoms.positions + rng.normal(0, 0.01, atoms.positions.shape)
        made.append(Structure(f"s{i}", atoms.numbers, pos, {"e": float(i)}, atoms.cell.array, np.array(atoms.pbc)))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "set"
    prepare(ListSource(structures(), e="eV"), folder, Settings(GRAPH, shard_size=13), workers=0)
    return folder


def open_as(how: str, folder, tmp_path) -> Dataset:
    options = {"memory": {}, "staged": {"stage": tmp_path / "stage"}, "streamed": {"window": 2}}[how]
    return Dataset(folder, ["e"], GRAPH, **options)


@pytest.mark.parametrize("how", ["memory", "staged", "streamed"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_every_graph_comes_once_and_is_itself(folder, tmp_path, how, ahead):
    data = open_as(how, folder, tmp_path)
    memory = open_as("memory", folder, tmp_path)
    plan = data.plan(np.arange(60), Limits(8), seed=1, epoch=0)
    members = [batch for window in plan for batch in window.batches]
    seen = []
    for numbers, batch in zip(members, data.batches(plan, ahead=ahead), strict=True):
        expected = memory._store.batch(numbers)
        for name in ("z", "pos", "cell", "src", "dst", "atom_ptr", "edge_ptr", "targets"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name
        torch.testing.assert_close(batch.edge_vectors(), expected.edge_vectors())
        seen += batch.targets.squeeze(1).tolist()
    assert sorted(seen) == list(range(60))


@pytest.mark.parametrize("how", ["memory", "streamed"])
def test_evaluation_sees_every_graph_once(folder, tmp_path, how):
    index = np.array([50, 3, 17, 44, 8])
    pairs = list(open_as(how, folder, tmp_path).in_order(index, Limits(2)))
    assert sorted(np.concatenate([numbers for numbers, _ in pairs])) == sorted(index)
    for numbers, batch in pairs:
        assert batch.targets.squeeze(1).tolist() == numbers.tolist()


@pytest.mark.parametrize("how", ["memory", "streamed"])
def test_resuming_inside_an_epoch_goes_on_with_the_same_batches(folder, tmp_path, how):
    data = open_as(how, folder, tmp_path)
    plan = data.plan(np.arange(60), Limits(8), seed=1, epoch=4)
    whole = [batch.targets.tolist() for batch in data.batches(plan)]
    assert [batch.targets.tolist() for batch in data.batches(plan, start=5)] == whole[5:]


@pytest.mark.parametrize("how", ["memory", "streamed"])
@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_evaluate_every_graph_once_among_them(folder, tmp_path, how, ranks):
    data, index = open_as(how, folder, tmp_path), np.arange(3, 57)
    shares = [
        [n for numbers, _ in data.in_order(index, Limits(8), rank, ranks) for n in numbers] for rank in range(ranks)
    ]
    assert sorted(sum(shares, [])) == index.tolist()
    assert all(shares)


@pytest.mark.parametrize("ranks", [2, 9])
def test_ranks_together_see_what_one_rank_sees(folder, tmp_path, ranks):
    data = open_as("memory", folder, tmp_path)
    plan = data.plan(np.arange(60), Limits(8), seed=1, epoch=0)
    one = [sorted(batch.targets.squeeze(1).tolist()) for batch in data.batches(plan)]
    each = [list(data.batches(plan, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for step, expected in enumerate(one):
        together = [target for batches in each for target in batches[step].targets.squeeze(1).tolist()]
        assert sorted(together) == expected


def test_staged_copy_is_made_once_and_shared(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from hpc_kit.data.loader import Dataset\n"
        "from hpc_kit.spec.data import Graph\n"
        "d = Dataset(Path(sys.argv[1]), ['e'], Graph(cutoff=4.0), stage=Path(sys.argv[2]))\n"
        "print(len(d), d.targets.sum())"
    )
    argv = [sys.executable, "-c", code, str(folder), str(tmp_path / "stage")]
    ranks = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [rank.communicate()[0] for rank in ranks] == ["60 1770.0\n"] * 3
    assert len([path for path in (tmp_path / "stage").iterdir() if path.is_dir()]) == 1


def test_other_graph_settings_than_the_stored_are_refused(folder):
    with pytest.raises(InputError, match="were built with cutoff 4.0: ask for that"):
        Dataset(folder, ["e"], Graph(cutoff=3.0))


def test_set_larger_than_memory_is_refused_with_the_window_that_fits(folder, monkeypatch):
    monkeypatch.setattr(loader.machine, "memory", lambda: {"cgroup_limit_mb": 0.01, "total_gb": 8})
    with pytest.raises(InputError, match="data.window: 1 streams"):
        Dataset(folder, ["e"], GRAPH)


def test_set_without_edges_cannot_be_streamed(tmp_path):
    prepare(ListSource(structures()[:3], e="eV"), tmp_path, Settings(None), workers=0)
    with pytest.raises(InputError, match="prepare it with a cutoff"):
        Dataset(tmp_path, ["e"], GRAPH, window=1)


def test_error_in_the_thread_reaches_the_caller(folder, tmp_path):
    data = open_as("streamed", folder, tmp_path)
    plan = data.plan(np.arange(60), Limits(8), 0, 0)
    data.manifest.shards[plan[-1].shards[0]] = data.manifest.shards[0].model_copy(update={"file": "gone.h5"})
    with pytest.raises(InputError, match="gone.h5: missing"):
        list(data.batches(plan, ahead=2))
