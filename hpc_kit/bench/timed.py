"""A training whose epochs are timed: all ranks begin each together, the slowest is the epoch, and what the nodes tell
of their state stands in its line of epochs.jsonl.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_kit.bench import pagecache
from hpc_kit.bench.clocks import PARTS, step_clock
from hpc_kit.bench.meters import NOT_READABLE, Meters, between
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.train.distributed import Group
from hpc_kit.train.loop import Training


class PageCache:
    """The page cache of a task's shards on this node, brought into the state that the job asks for by the node's
    first rank."""

    def __init__(self, task: Task, files: list[Path], ranks: Ranks, group: Group):
        self._asked, self._files, self._group = task.work.benchmark.cache, files, group
        self.is_first = ranks.local_rank == 0

    def prepare(self) -> float | None:
        """Drop or read the files, and return the share of them that lies in memory on this node; the others wait."""
        share = None
        if self.is_first:
            (pagecache.drop if self._asked == "cold" else pagecache.fill)(self._files)
            share = pagecache.resident(self._files)
        self._group.barrier()
        return share


class TimedTraining(Training):
    """A training that yields, epoch by epoch, lines with what a benchmark records besides.

    The first epochs after each start, and those that were interrupted, have `warmup` true. With measure_overhead the
    clocks of the phases are off in every second epoch, whose `phases` are null. `open_s` is what it took to open the
    data and to build the model.
    """

    def __init__(
        self,
        task: Task,
        out: TaskDir,
        group: Group,
        watch: Watch,
        cache: PageCache,
        environment: Mapping[str, str] = os.environ,
    ):
        cache.prepare()
        began = time.perf_counter()
        super().__init__(task, out, group, watch, environment)
        self.open_s = time.perf_counter() - began
        self._cache, self._timed = cache, 0
        group.phases = self._steps = step_clock(group.device)
        uuid = str(torch.cuda.get_device_properties(group.device).uuid) if group.device.type == "cuda" else None
        self._meters = Meters(uuid)

    def _epoch(self) -> dict[str, Any]:
        asked = self.work.benchmark
        is_warmup = self._timed < asked.warmup_epochs or self.state.progress.batch > 0
        self._steps.is_on = not (asked.measure_overhead and self._timed % 2)
        self._timed += 1
        cached = self._cache.prepare()
        self._steps.read()  # forget what an epoch before has left
        before = self._meters.read()
        self.group.barrier()
        record = super()._epoch()
        mine = between(before, self._meters.read()) | {
            "host": socket.gethostname(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
            "cached": cached,
            "is_first": self._cache.is_first,
            "phases": self._steps.read(),
            **{name: record[name] for name in ("wall_s", "cpu_s", "data_wait_s", "eval_s", "checkpoint_s")},
            **{name: record[name] for name in ("peak_rss_mb", "peak_gpu_mb")},
        }
        return record | {"warmup": is_warmup} | merged(self._everyones(mine), asked.cache)

    def _everyones(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        parts = self.group.gather(np.frombuffer(json.dumps(mine).encode(), np.uint8))
        return [json.loads(part.tobytes()) for part in parts]


def merged(ranks: list[dict[str, Any]], cache: str) -> dict[str, Any]:
    """Return what the measurements of all ranks come to: times and phases are the slowest rank's, cores' time and
    energy are summed over ranks and nodes, and of what others did on the nodes the worst counts."""
    slowest = max(ranks, key=lambda rank: rank["wall_s"])
    hosts = {rank["host"]: rank for rank in reversed(ranks) if rank["is_first"]}
    own = {host: sum(rank["cpu_s"] for rank in ranks if rank["host"] == host) for host in hosts}
    others = [max(0.0, rank["busy_s"] - own[host]) for host, rank in hosts.items() if rank["busy_s"] is not None]
    return {
        "wall_s": slowest["wall_s"],
        "cpu_s": sum(rank["cpu_s"] for rank in ranks),
        "rank_wall_s": [min(rank["wall_s"] for rank in ranks), slowest["wall_s"]],
        "phases": phases(slowest, len(ranks)),
        "cores": min(rank["cores"] for rank in ranks),
        "threads": min(rank["threads"] for rank in ranks),
        "load": max(rank["load"] for rank in ranks),
        "others_cpu_s": max(others, default=None),
        "steal_s": _most(rank["steal_s"] for rank in hosts.values()),
        "queued_s": _most(rank["queued_s"] for rank in ranks),
        "throttled": [cause for rank in ranks for cause in rank["throttled"]],
        "cache": cache,
        "cached": _worst([rank["cached"] for rank in hosts.values()], cache),
        "energy_j": {
            "gpu": _total([rank["gpu_j"] for rank in ranks]),
            "cpu": _total([rank["cpu_j"] for rank in hosts.values()]),
        },
        "peak_rss_mb": max(rank["peak_rss_mb"] for rank in ranks),
        "peak_gpu_mb": _most(rank["peak_gpu_mb"] for rank in ranks),
    }


def phases(rank: dict[str, Any], ranks: int) -> dict[str, float | None] | None:
    """Return the seconds of each phase of a rank's epoch, None where its clocks were off. The sum over the ranks runs
    beside the backward pass, which waits for its end: its time is in both."""
    if rank["phases"] is None:
        return None
    return {
        "data_wait_s": rank["data_wait_s"],
        **{part: rank["phases"][part] for part in PARTS},
        "all_reduce_s": rank["phases"]["all_reduce_s"] if ranks > 1 else None,
        "evaluation_s": rank["eval_s"],
        "checkpoint_s": rank["checkpoint_s"],
    }


def _most(values) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def _total(values: list[float | None]) -> float | str:
    return NOT_READABLE if None in values or not values else sum(values)


def _worst(shares: list[float | None], cache: str) -> float | None:
    if None in shares or not shares:
        return None
    return max(shares) if cache == "cold" else min(shares)
