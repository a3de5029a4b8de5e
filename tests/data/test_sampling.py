"""Batches of an epoch: a pure function of seed and epoch, whatever the number of ranks."""

import numpy as np
import pytest

from hpc_kit.data.sampling import Limits, cut, epoch_order, plan_in_memory, plan_stream, share

INDEX = np.arange(100)
SIZES = np.random.default_rng(0).integers(1, 30, 100)
STARTS = np.array([0, 30, 50, 90, 100])


def stream(epoch=0, window=2, index=INDEX):
    return plan_stream(index, Limits(8), SIZES, SIZES, 5, epoch, STARTS, window)


def all_of(windows):
    return np.concatenate([batch for window in windows for batch in window.batches])


def test_order_is_a_pure_function_of_seed_and_epoch():
    np.testing.assert_array_equal(epoch_order(INDEX, 1, 2), epoch_order(INDEX, 1, 2))
    orders = {tuple(epoch_order(INDEX, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == INDEX.tolist() for order in orders)


def test_batches_by_count():
    assert [len(batch) for batch in cut(INDEX, Limits(30), SIZES, SIZES)] == [30, 30, 30, 10]


@pytest.mark.parametrize("limits", [Limits(10**6, atoms=60), Limits(10**6, edges=60), Limits(4, atoms=60, edges=50)])
def test_batches_by_budget_stay_within_it_and_are_full(limits):
    batches = cut(INDEX, limits, SIZES, SIZES)
    np.testing.assert_array_equal(np.concatenate(batches), INDEX)
    bound = min(limits.atoms or 10**9, limits.edges or 10**9)
    for batch, following in zip(batches, [*batches[1:], INDEX[:0]], strict=True):
        assert len(batch) <= limits.graphs
        assert SIZES[batch].sum() <= bound
        if len(following) and len(batch) < limits.graphs:
            assert SIZES[batch].sum() + SIZES[following[0]] > bound


def test_graph_larger_than_the_budget_is_a_batch_of_its_own():
    sizes = np.array([3, 50, 3])
    assert [b.tolist() for b in cut(np.arange(3), Limits(10, atoms=10), sizes, sizes)] == [[0], [1], [2]]


def test_in_memory_plan_holds_every_graph_once():
    assert sorted(all_of(plan_in_memory(INDEX, Limits(7), SIZES, SIZES, 0, 3))) == INDEX.tolist()


def test_stream_holds_every_graph_once_and_reads_every_shard_once():
    windows = stream()
    assert sorted(all_of(windows)) == INDEX.tolist()
    assert sorted(shard for window in windows for shard in window.shards) == [0, 1, 2, 3]
    for window in windows:
        shards = np.searchsorted(STARTS, np.concatenate(window.batches), side="right") - 1
        assert set(shards) == set(window.shards)


def test_stream_changes_with_the_epoch_alone():
    np.testing.assert_array_equal(all_of(stream(1)), all_of(stream(1)))
    assert all_of(stream(1)).tolist() != all_of(stream(2)).tolist()


def test_stream_of_a_part_of_the_data_reads_only_its_shards():
    windows = stream(index=np.arange(31, 45))
    assert [window.shards for window in windows if 1 not in window.shards] == []
    assert sorted(all_of(windows)) == list(range(31, 45))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_ranks_share_each_batch_whole_and_evenly(ranks):
    batch = np.arange(20, 31)
    shares = [share(batch, rank, ranks) for rank in range(ranks)]
    assert np.concatenate(shares).tolist() == batch.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batch_of_fewer_graphs_than_ranks_leaves_some_without():
    assert sorted(len(share(np.array([5, 9]), rank, 4)) for rank in range(4)) == [0, 0, 1, 1]
