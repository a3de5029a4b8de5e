"""Ranks find each other, and only each other; those that do not come are named. Threads stand for processes."""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from hpc_kit.machine import own_addresses
from hpc_kit.ranks import Ranks
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.train import rendezvous
from hpc_kit.train.distributed import Group
from hpc_kit.train.rendezvous import join, meet


@pytest.fixture
def come(tmp_path, monkeypatch):
    """Let a rank come: come(rank, size, timeout) gives the future of what all have told of themselves."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    pool = ThreadPoolExecutor(8)
    stores = []

    def one(rank: int, size: int, timeout: float, nodes: int) -> list[dict]:
        ranks = Ranks(rank, size, rank % (size // nodes), size // nodes, "srun")
        stores.append(meet(ranks, tmp_path / "rendezvous.json", timeout))
        return join(stores[-1], ranks, {"me": rank}, timeout)

    yield lambda rank, size, timeout=30.0, nodes=1: pool.submit(one, rank, size, timeout, nodes)
    pool.shutdown()


def message(future: Future, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        future.result(60)
    return str(caught.value)


@pytest.mark.parametrize("nodes", [1, 2])
def test_every_rank_learns_of_every_other(come, nodes):
    futures = [come(rank, 4, nodes=nodes) for rank in (3, 1, 0, 2)]
    assert all(future.result(60) == [{"me": rank} for rank in range(4)] for future in futures)


@pytest.mark.parametrize("stale", ["closed port", "another store", "half a file"])
def test_file_of_an_earlier_attempt_fools_nobody(come, tmp_path, stale):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=9))
    store.set("hpc_kit/word", "other")
    port = store.port if stale == "another store" else 9
    text = json.dumps({"addresses": ["127.0.0.1"], "port": port, "word": "word"})
    (tmp_path / "rendezvous.json").write_text(text if stale != "half a file" else text[:20])
    other = come(1, 2)
    time.sleep(1)
    assert not other.done()
    assert come(0, 2).result(60) == other.result(60)


def test_server_that_is_no_store_fools_nobody(come, tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "_CONNECT_S", 0.5)
    with rendezvous.socket.create_server(("127.0.0.1", 0)) as mute:
        told = {"addresses": ["127.0.0.1"], "port": mute.getsockname()[1], "word": "word"}
        (tmp_path / "rendezvous.json").write_text(json.dumps(told))
        other = come(1, 2)
        time.sleep(1)
        assert come(0, 2).result(60) == other.result(60)


def test_ranks_that_do_not_come_are_named_to_all(come):
    for future in [come(rank, 4, timeout=2.0) for rank in (0, 2)]:
        assert message(future, WorkError).startswith("rank 1, 3 of 4 did not come within 2 s")


def test_rank_0_that_does_not_come_is_named(come):
    assert message(come(1, 4, timeout=1.0), WorkError).startswith("rank 0 did not come within 1 s")


def test_second_process_of_a_rank_is_refused_and_the_first_is_not_disturbed(come):
    first = [come(rank, 3) for rank in (0, 1)]
    time.sleep(1)
    assert "rank 1 of 3 is there already" in message(come(1, 3), InputError)
    futures = [*first, come(2, 3)]
    assert all(len(future.result(60)) == 3 for future in futures)


def test_addresses_of_several_nodes_are_none_of_this_host_alone():
    assert not [a for a in own_addresses() if a.startswith("127.")] or not has_network()


def has_network() -> bool:
    addresses = rendezvous.psutil.net_if_addrs().values()
    return any(a.family == rendezvous.socket.AF_INET and a.address[:4] != "127." for one in addresses for a in one)


def test_timeout_must_be_a_number(small_task):
    ranks, environment = Ranks(0, 2, 0, 2, "hpc_kit"), {"HPC_KIT_TIMEOUT_S": "soon"}
    with pytest.raises(InputError, match="HPC_KIT_TIMEOUT_S=soon: must be a number of seconds"):
        with Group.open(small_task.read_task(), small_task, ranks, environment):
            pass
