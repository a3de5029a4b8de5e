"""Who of the other ranks is still there, and why one is not: so that no rank waits for a dead one for ever.

A thread of each rank says once a second that its rank lives. The reason why the ranks end is written once, by whoever
finds it first; all others read that one. What cannot come back by itself (a GPU that waits for a dead rank) is ended.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from hpc_kit.ranks import Ranks
from hpc_kit.runs.process import is_alive
from hpc_kit.spec.errors import InputError, WorkError

BEAT_S = 1.0
STALE_S = 60.0  # without a beat for so long a rank counts as gone
ANSWER_S = 30.0  # without an answer for so long the store does
LOOK_S = 5.0  # how long its cause is looked for when a collective has failed
GRACE_S = 15.0  # what a rank that is told of the end gets to end by itself
LAST_S = 2.0  # from the end of a dying process's connections to its own
LINGER_S = 5.0  # how long the holder of the store waits for others to read the reason
LEAVE_S = 60.0


class Peers:
    """The ranks that joined. who: of each rank its host, pid and time of birth."""

    def __init__(self, store: dist.Store, ranks: Ranks, who: list[dict[str, Any]]):
        self._ranks, self._who = ranks, who
        self._store, self._beats = store.clone(), store.clone()
        for clone in (self._store, self._beats):
            clone.set_timeout(timedelta(seconds=ANSWER_S))
        here = who[ranks.rank]["host"]
        self._here = [rank for rank, peer in enumerate(who) if peer["host"] == here and rank != ranks.rank]
        self._ended = threading.Event()
        self.collectives = 0  # how many this rank has come to
        self._beat(0)
        self._thread = threading.Thread(target=self._live, name="peers", daemon=True)
        self._thread.start()

    def publish(self, reason: str) -> str:
        """Make `reason` the one why all ranks end, unless there is one; return the one there is."""
        return self._store.compare_set("reason", "", reason).decode()

    def failed(self, error: BaseException) -> str:
        """Tell the others that this rank ends by an error of its own."""
        kind = "" if isinstance(error, InputError | WorkError) else f"{type(error).__name__}: "
        text = " ".join(str(error).split())
        return self.publish(f"{self._name([self._ranks.rank])} failed: {kind}{text}")

    def reason(self, error: BaseException) -> str | None:
        """Return why a collective has failed with `error`, None where every rank is well."""
        try:
            before = self._all_beats()
            deadline = time.monotonic() + LOOK_S
            while time.monotonic() < deadline:
                if dead := self._dead_here():
                    return self.publish(self._killed(dead))
                if found := self._published(self._store):
                    return found
                time.sleep(0.1)
            after = self._all_beats()
        except dist.DistError:
            return self._lost_store()
        if silent := [rank for rank in before if before[rank][0] == after[rank][0]]:
            return self.publish(f"{self._name(silent)} does not answer any more")
        if "timed out" in str(error).lower():
            late = [rank for rank, (_, count) in after.items() if count < self.collectives]
            if late:
                return self.publish(f"{self._name(late)} did not come to a collective that others waited in")
        return None

    def leave(self, well: bool) -> None:
        """Take leave: together with all others where all is well, else once the others know the reason."""
        if well:
            self._end_thread()
        with contextlib.suppress(dist.DistError):
            self._store.set(f"left/{self._ranks.rank}", "")
            if well:
                if self._store.add("left", 1) == self._ranks.size:
                    self._store.set("all left", "")
                self._store.wait(["all left"], timedelta(seconds=LEAVE_S))
            elif self._ranks.rank == 0:
                deadline = time.monotonic() + LINGER_S
                while self._staying() and time.monotonic() < deadline:
                    time.sleep(0.05)
        self._end_thread()

    def _end_thread(self) -> None:
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        count, heard = 0, {}
        while not self._ended.wait(BEAT_S):
            count += 1
            try:
                self._beat(count)
                reason = self._published(self._beats)
                if reason is None and self._ranks.local_rank < 2 and (dead := self._dead_here()):
                    reason = self.publish(self._killed(dead))
                if reason is None and self._ranks.rank == 0 and (dead := self._silent(heard)):
                    reason = self.publish(f"{self._name(dead)} has not answered for {STALE_S:.0f} s")
            except dist.DistError:
                reason = self._lost_store()
            if reason is not None:
                if not self._ended.wait(GRACE_S):
                    print(reason, file=sys.stderr, flush=True)
                    os._exit(1)
                return

    def _beat(self, count: int) -> None:
        self._beats.set(f"beat/{self._ranks.rank}", f"{count} {self.collectives}")

    def _all_beats(self) -> dict[int, tuple[int, int]]:
        """Return (beats, collectives) of each other rank."""
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank]
        texts = self._store.multi_get([f"beat/{rank}" for rank in others])
        return {rank: tuple(map(int, text.split())) for rank, text in zip(others, texts, strict=True)}

    def _silent(self, heard: dict[int, tuple[int, float]]) -> list[int]:
        now = time.monotonic()
        for rank, (count, _) in self._all_beats().items():
            if rank not in heard or heard[rank][0] != count:
                heard[rank] = count, now
        return [rank for rank, (_, at) in heard.items() if now - at > STALE_S]

    def _dead_here(self) -> list[int]:
        """Return the ranks of this host whose process has ended."""
        return [rank for rank in self._here if not is_alive(self._who[rank]["pid"], self._who[rank]["born"])]

    def _staying(self) -> bool:
        dead = self._dead_here()
        others = (rank for rank in range(1, self._ranks.size) if rank not in dead)
        return any(not self._store.check([f"left/{rank}"]) for rank in others)

    def _published(self, store: dist.Store) -> str | None:
        return store.get("reason").decode() if store.check(["reason"]) else None

    def _lost_store(self) -> str:
        deadline = time.monotonic() + LAST_S
        while 0 in self._here and time.monotonic() < deadline:
            if 0 in self._dead_here():
                return self._killed([0])
            time.sleep(0.05)
        return f"{self._name([0])} is gone: nothing answers at its address any more"

    def _killed(self, dead: list[int]) -> str:
        return f"{self._name(dead)} is gone: its process was ended from outside (killed, or out of memory)"

    def _name(self, ranks: Iterable[int]) -> str:
        names = [f"{rank} of {self._ranks.size} (host {self._who[rank]['host']})" for rank in ranks]
        return f"rank {', '.join(names)}"
