"""Messages between the rank that manages a search and those that work for it: lines of JSON over TCP.

Not MPI, under which the death of one rank ends all, and not the store of train/rendezvous.py, which tells nobody that
a client is gone (docs/search-ranks.md). Rank 0 writes down where it listens, with a random word in two halves: a
worker proves itself with the first, and is answered with the second, so that the file of an earlier attempt fools
nobody.
"""

import contextlib
import json
import os
import queue
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_kit.files import write_json
from hpc_kit.machine import LOOPBACK, own_addresses
from hpc_kit.spec.errors import InputError, RankLost

Message = dict[str, Any]
SILENT_S = 60.0  # without a word for so long a worker counts as gone
BEAT_S = 5.0  # how often a worker says that it lives
_CONNECT_S = 5.0
_POLL_S = 0.2
_LONGEST_HELLO = 4096
_LONGEST = 1 << 20


class Lines:
    """The lines of JSON that come in through a file descriptor, as far as they are there."""

    def __init__(self, descriptor: int, longest: int = _LONGEST):
        self.descriptor, self._rest, self.longest = descriptor, b"", longest

    def read(self) -> list[Message] | None:
        """Return the lines that have come, None where the other side has ended. Blocks where nothing has come yet."""
        try:
            found = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._rest = (self._rest + found).split(b"\n")
        if not found or len(self._rest) > self.longest:
            return None
        try:
            told = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return told if all(isinstance(one, dict) for one in told) else None


def line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Hub:
    """The side of rank 0. `inbox` gives (rank, message) as they come, and (rank, None) when a rank is gone.

    idle_host: the host of rank 0 where that rank does not train, else "".
    """

    def __init__(self, file: Path, one_node: bool, idle_host: str):
        self.inbox: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._file, self._idle_host, self._ended = file, idle_host, threading.Event()
        addresses = [LOOPBACK] if one_node else own_addresses()
        self._listening = socket.create_server((LOOPBACK if one_node else "", 0), backlog=1024)
        self._listening.setblocking(False)
        self._words = secrets.token_hex(16), secrets.token_hex(16)
        self._sockets: dict[int, socket.socket] = {}
        self._heard: dict[int, float] = {}
        self._thread = threading.Thread(target=self._listen, name="hub", daemon=True)
        self._thread.start()
        write_json(
            file, {"addresses": addresses, "port": self._listening.getsockname()[1], "words": list(self._words)}
        )

    def send(self, rank: int, message: Message) -> None:
        """Send a message; one that cannot be sent is lost, and the inbox tells that the rank is gone."""
        with contextlib.suppress(OSError, KeyError):
            self._sockets[rank].sendall(line(message))

    def close(self) -> None:
        """End all connections, once the workers have had the time to read what was sent last."""
        self._file.unlink(missing_ok=True)
        for one in list(self._sockets.values()):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _CONNECT_S
        while self._sockets and time.monotonic() < until:
            time.sleep(0.02)
        self._ended.set()
        self._thread.join()
        for one in [self._listening, *self._sockets.values()]:
            one.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ, None)
            while not self._ended.is_set():
                for key, _ in selector.select(_POLL_S):
                    if key.data is None:
                        self._accept(selector)
                    else:
                        self._receive(selector, key)
                self._drop_silent(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            accepted, _ = self._listening.accept()
            accepted.settimeout(_CONNECT_S)
            _end_when_the_other_is_dead(accepted)
            selector.register(
                accepted, selectors.EVENT_READ, [Lines(accepted.fileno(), _LONGEST_HELLO), None, time.monotonic()]
            )

    def _receive(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        lines, rank, _ = key.data
        told = lines.read()
        if told == []:
            return
        if told and rank is None:
            rank = self._prove(key, told.pop(0))
        if told is None or rank is None:
            self._drop(selector, key.fileobj, key.data[1])
            return
        self._heard[rank] = time.monotonic()
        for message in told:
            if message.get("is") != "beat":
                self.inbox.put((rank, message))

    def _prove(self, key: selectors.SelectorKey, hello: Message) -> int | None:
        """Return the rank that a connection's first line proves it to be, None where it is none."""
        rank = hello.get("rank")
        if not secrets.compare_digest(str(hello.get("word")), self._words[0]) or not isinstance(rank, int):
            return None
        with contextlib.suppress(OSError):
            if rank in self._sockets:
                key.fileobj.sendall(line({"is": "refused"}))
                return None
            key.fileobj.sendall(line({"word": self._words[1], "idle_host": self._idle_host}))
            key.data[0].longest, key.data[1] = _LONGEST, rank
            self._sockets[rank] = key.fileobj
            self.inbox.put((rank, {"is": "hello"} | hello))
            return rank
        return None

    def _drop(self, selector: selectors.BaseSelector, one: socket.socket, rank: int | None) -> None:
        selector.unregister(one)
        one.close()
        if rank is not None:
            del self._sockets[rank]
            self.inbox.put((rank, None))

    def _drop_silent(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for key in list(selector.get_map().values()):
            if key.data is not None:
                _, rank, since = key.data
                if now - self._heard.get(rank, since) > (SILENT_S if rank is not None else _CONNECT_S):
                    self._drop(selector, key.fileobj, rank)


class Line:
    """A worker's side: its connection to rank 0."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._lines = Lines(connection.fileno())

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> bool:
        """Send a message; return False where rank 0 is gone."""
        try:
            self._socket.sendall(line(message))
        except OSError:
            return False
        return True

    def read(self) -> list[Message] | None:
        """Return what has come, None where rank 0 is gone."""
        return self._lines.read()

    def close(self) -> None:
        self._socket.close()


def connect(
    file: Path, hello: Message, timeout: float, asked: Callable[[], str | None] = lambda: None
) -> tuple[Line, Message]:
    """Return the connection to the rank 0 that `file` tells of, once it does, and what it answers.

    hello: this rank, and what rank 0 should know of it; asked: why to wait no longer, None where there is no reason.

    Raises RankLost where it does not come within `timeout` seconds, InputError where the rank is there already.
    """
    deadline = time.monotonic() + timeout
    tried = "it was never there"
    while time.monotonic() < deadline and not asked():
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            told = json.loads(file.read_text())
            tried = f"nobody answered at {', '.join(told['addresses'])} port {told['port']}"
            for address in told["addresses"]:
                if found := _connect(address, told["port"], told["words"], hello):
                    return found
        time.sleep(_POLL_S)
    if why := asked():
        raise RankLost(f"{why} before rank 0 came")
    raise RankLost(f"rank 0 did not come within {timeout:.0f} s: {file} was looked for, and {tried}")


def _connect(address: str, port: int, words: list[str], hello: Message) -> tuple[Line, Message] | None:
    try:
        connection = socket.create_connection((address, port), _CONNECT_S)
    except OSError:
        return None
    try:
        connection.sendall(line(hello | {"word": words[0]}))
        answer = b""
        while not answer.endswith(b"\n") and len(answer) < _LONGEST_HELLO and (more := connection.recv(1)):
            answer += more
        told = json.loads(answer)
    except (OSError, ValueError):
        connection.close()
        return None
    if told.get("is") == "refused":
        raise InputError(
            f"rank {hello['rank']} is there already: two processes were given the same rank, or another launch works"
            " on this search"
        )
    if told.get("word") != words[1]:
        connection.close()
        return None
    connection.settimeout(None)
    _end_when_the_other_is_dead(connection)
    return Line(connection), told


def _end_when_the_other_is_dead(connection: socket.socket) -> None:
    """Have the kernel end a connection whose other host has vanished without a word, within about a minute."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 60000),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
