"""How the ranks of a task find each other: through a file in the task directory, or where torchrun says.

No port is guessed: rank 0 binds a free one and writes host and port down. The file of an earlier attempt fools
nobody: it holds a random word, and only the store of the same attempt answers with that word.
"""

import contextlib
import ipaddress
import json
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from hpc_kit.files import write_json
from hpc_kit.machine import LOOPBACK, own_addresses
from hpc_kit.ranks import Ranks
from hpc_kit.spec.errors import InputError, RankLost

_WORD = "hpc_kit/word"
_CONNECT_S = 5.0
_POLL_S = 0.2


def meet(ranks: Ranks, file: Path, timeout: float, environment: Mapping[str, str] = os.environ) -> dist.Store:
    """Return the store that all ranks share; rank 0 holds it, except under torchrun, which does so itself.

    Raises RankLost where it is not found within `timeout` seconds.
    """
    try:
        if ranks.launcher == "torchrun" and {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
            limit = timedelta(seconds=timeout)
            store, _, _ = next(dist.rendezvous("env://", ranks.rank, ranks.size, timeout=limit))
            _use_interface(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), ranks)
            return store
        address, store = _open(ranks, file, timeout) if ranks.rank == 0 else _find(file, timeout)
        _use_interface(address, store.port, ranks)
        return store
    except (dist.DistError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RankLost(f"rank {ranks.rank} of {ranks.size} found no way to the others: {reason}") from error


def join(store: dist.Store, ranks: Ranks, me: dict[str, Any], timeout: float) -> list[dict[str, Any]]:
    """Tell the others who this rank is, wait for all and return what each has told, by rank.

    Raises InputError where two processes have the same rank, RankLost naming those that did not come.
    """
    if store.add(f"joined/{ranks.rank}", 1) > 1:
        raise InputError(
            f"rank {ranks.rank} of {ranks.size} is there already: two processes were given the same rank, or another"
            " launch works on this task"
        )
    store.set(f"who/{ranks.rank}", json.dumps(me))
    if store.add("joined", 1) == ranks.size:
        store.set("all", "")
    deadline = time.monotonic() + timeout
    try:
        while not store.check(["all"]):
            if time.monotonic() > deadline and not store.check(["late"]):
                late = [str(rank) for rank in range(ranks.size) if not store.check([f"who/{rank}"])]
                why = f"did not come within {timeout:.0f} s: not started, or unable to reach rank 0"
                store.set("late", f"rank {', '.join(late)} of {ranks.size} {why}")
                time.sleep(5 * _POLL_S)  # the store goes with rank 0
            if store.check(["late"]):
                raise RankLost(store.get("late").decode())
            time.sleep(_POLL_S)
        return [json.loads(text) for text in store.multi_get([f"who/{rank}" for rank in range(ranks.size)])]
    except dist.DistError:
        raise RankLost(f"rank 0 of {ranks.size} was gone before all ranks had come") from None


def _open(ranks: Ranks, file: Path, timeout: float) -> tuple[str, dist.TCPStore]:
    """Hold a store on a free port and write down where it is; on one node it answers that node alone."""
    addresses = [LOOPBACK] if ranks.local_size == ranks.size else own_addresses()
    with socket.socket() as listening:
        listening.bind((LOOPBACK if addresses == [LOOPBACK] else "", 0))
        listening.listen(ranks.size)
        port = listening.getsockname()[1]
        store = dist.TCPStore(
            addresses[0],
            port,
            is_master=True,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    word = secrets.token_hex(16)
    store.set(_WORD, word)
    write_json(file, {"addresses": addresses, "port": port, "word": word})
    return addresses[0], store


def _find(file: Path, timeout: float) -> tuple[str, dist.TCPStore]:
    """Return the store that `file` tells of, once it does and the store proves to be the one."""
    deadline = time.monotonic() + timeout
    tried = "it was never there"
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            told = json.loads(file.read_text())
            for address in told["addresses"]:
                tried = f"nobody answered at {', '.join(told['addresses'])} port {told['port']}"
                if store := _connect(address, told["port"], told["word"]):
                    store.set_timeout(timedelta(seconds=timeout))
                    return address, store
        time.sleep(_POLL_S)
    raise RankLost(f"rank 0 did not come within {timeout:.0f} s: {file} was looked for, and {tried}")


def _connect(address: str, port: int, word: str) -> dist.TCPStore | None:
    """Return the store at `address` where it knows the word.

    In a thread, because TCPStore waits for ever for a server that takes the connection and says nothing.
    """
    found: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(_ask(address, port, word)), daemon=True).start()
    try:
        return found.get(timeout=3 * _CONNECT_S)
    except queue.Empty:
        return None


def _ask(address: str, port: int, word: str) -> dist.TCPStore | None:
    try:
        socket.create_connection((address, port), _CONNECT_S).close()
        limit = timedelta(seconds=_CONNECT_S)
        store = dist.TCPStore(address, port, is_master=False, timeout=limit, wait_for_workers=False)
        return store if store.check([_WORD]) and store.get(_WORD) == word.encode() else None
    except (OSError, dist.DistError):
        return None


def _use_interface(address: str, port: int, ranks: Ranks) -> None:
    """Have gloo talk through the interface on the way to the store: the host's name may stand for 127.0.1.1."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        own = probe.getsockname()[0]
        if ipaddress.ip_address(own).is_loopback and ranks.local_size < ranks.size:
            return
        for name, addresses in psutil.net_if_addrs().items():
            if own in (a.address for a in addresses):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
