"""Why timed epochs are unfit to be compared: a busy machine, throttled clocks, a page cache not as asked. Pure.

The rules, each over all given epochs together:

| reason | when |
|---|---|
| others used the machine | other processes had over 10 % of the node's cores |
| time was stolen | the hypervisor gave over 1 % of the node's core time to others |
| waited for cores | a rank's threads were ready and had no core for over 5 % of the time, the mean over threads |
| little CPU time | one rank alone on the CPU had a core for under 70 % of what it computed |
| throttled | a CPU or GPU said that heat or power slowed its clocks |
| page cache | "cold" and over 2 % of the shards were in memory, "warm" and under 98 %, or the kernel does not tell |

Records of trainings, which hold none of the fields of benchmarks, are judged by their CPU time alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

OTHERS, STOLEN, QUEUED, LEAST_CPU = 0.10, 0.01, 0.05, 0.70
COLD, WARM = 0.02, 0.98


def reasons(lines: Sequence[Mapping[str, Any]], cache: str | None = None) -> list[str]:
    """Return why the epochs `lines` (of epochs.jsonl) are unfit, [] where nothing speaks against them.

    `cache` is the state of the page cache that was asked for, None where none was.
    """
    lines = [line for line in lines if line.get("wall_s")]
    return [*_busy(lines), *_little_cpu(lines), *_throttled(lines), *(_not_as_asked(lines, cache) if cache else [])]


def _busy(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for key, most, what in (
        ("others_cpu_s", OTHERS, "other processes used {share:.0%} of the node's cores"),
        ("steal_s", STOLEN, "the hypervisor gave {share:.1%} of the cores' time to others"),
    ):
        known = [line for line in lines if line.get(key) is not None and line.get("cores")]
        time = sum(line["wall_s"] * line["cores"] for line in known)
        if known and (share := sum(line[key] for line in known) / time) > most:
            found.append(f"{what.format(share=share)} (limit {most:.0%})")
    known = [line for line in lines if line.get("queued_s") is not None]
    time = sum(line["wall_s"] * line.get("threads", 1) for line in known)
    if known and (share := sum(line["queued_s"] for line in known) / time) > QUEUED:
        found.append(f"its threads waited for a core for {share:.0%} of the time (limit {QUEUED:.0%})")
    return found


def _little_cpu(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    alone = [line for line in lines if line.get("world_size") == 1 and line.get("peak_gpu_mb") is None]
    work = sum(line["compute_s"] + (line.get("eval_s") or 0.0) for line in alone)
    used = sum(line.get("cpu_s") or 0.0 for line in alone)
    if not alone or any(line.get("cpu_s") is None for line in alone) or used >= LEAST_CPU * work:
        return []
    return [f"it had a core for {used / work:.0%} of the time in which it computed (at least {LEAST_CPU:.0%})"]


def _throttled(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"throttled: {cause}" for cause in dict.fromkeys(c for x in lines for c in x.get("throttled") or ())]


def _not_as_asked(lines: Sequence[Mapping[str, Any]], cache: str) -> list[str]:
    shares = [line.get("cached") for line in lines]
    if None in shares:
        return [f"whether the page cache was {cache} cannot be seen: the shards are another user's"]
    if cache == "cold" and (most := max(shares, default=0.0)) > COLD:
        return [f"the page cache could not be made cold: {most:.0%} of the shards stayed in memory"]
    if cache == "warm" and (least := min(shares, default=1.0)) < WARM:
        return [f"the page cache could not be kept warm: {least:.0%} of the shards were in memory"]
    return []
