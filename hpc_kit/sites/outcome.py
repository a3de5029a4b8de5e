"""What an attempt's end means: from what it left behind and its block's record to a state, the evidence and the next
step. Pure.

The order of trust: done.json, then what the task itself wrote down, then what the scheduler says of its block. An
exit code alone says little: a launcher, a container or a shell may have stood between. That a block has ended says
nothing by itself about a task. Nothing is decided from a log.
"""

import signal
from dataclasses import dataclass, field
from typing import Any

from hpc_kit.sites.scheduler import ENDED, JobRecord
from hpc_kit.spec.errors import PREEMPTED, RankLost

AGAIN = ("preempted", "time_limit", "node_failure", "lost")  # what may go better the next time
_CAUSES = ("out_of_memory", "time_limit", "node_failure", "preempted", "cancelled")


@dataclass(frozen=True)
class Left:
    """What an attempt left behind: `marker` is exit.json, the word of what watched it; `stopped` and `failed` are
    stopped.json and failed.json, its own; {} where there is none. `last_line` of its log is for people only.
    `launched` tells whether a launcher of several nodes stood between."""

    done: bool = False
    marker: dict[str, Any] = field(default_factory=dict)
    stopped: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Any] = field(default_factory=dict)
    last_line: str = ""
    launched: bool = False

    @property
    def said(self) -> bool:
        """Whether the attempt itself says why it ended; a signal and a rank that is gone have a cause outside."""
        if self.failed and self.failed["error"] != RankLost.__name__:
            return True
        return self.done or self.stopped.get("cause") in ("time_limit", "cancelled")

    @property
    def code(self) -> int | None:
        return self.marker.get("exit_code")


@dataclass(frozen=True)
class End:
    """How an attempt ended; `hint` is what the user may do about it, `evidence` who says so, in its own words."""

    state: str
    reason: str
    evidence: str = ""
    hint: str = ""
    exit_code: int | None = None


def needs_record(left: Left) -> bool:
    """Tell whether the scheduler's word on the block is needed: where neither the task nor what watched it knows."""
    known = left.marker.get("ended") in ("cancelled", "time over") or left.marker.get("out_of_memory")
    return not (left.said or known)


def judge(left: Left, record: JobRecord | None, lost: str, progress: str, ours: str = "") -> End:
    """Return how an attempt ended.

    `record` is what the scheduler says of its block (None: no scheduler, or it does not answer), `lost` what was
    noticed where no marker is, and `progress` how far the task has come, as in "40 of 100 epochs". `ours` says why
    this run itself ended what ran, where it has.
    """
    end = _own_word(left, progress) or _outside(left, record, progress, ours) or _last_guess(left, lost)
    evidence = end.evidence
    if not evidence and record and end.state not in ("done", "cancelled") and not left.said:
        evidence = record.evidence if record.state in ENDED or not left.marker else ""
    return End(end.state, end.reason, evidence, end.hint, 0 if end.state == "done" else left.code)


def _own_word(left: Left, progress: str) -> End | None:
    """Return what the task says, or what watched it and took part."""
    ended, cause, text = left.marker.get("ended"), left.stopped.get("cause"), left.stopped.get("text", "")
    if left.done:
        return End("done", "")
    if ended == "cancelled" or cause == "cancelled":
        return End("cancelled", "on request")
    if ended == "time over" or cause == "time_limit":
        return End("time_limit", text or "it did not end in time", hint=_more_time(progress))
    if left.marker.get("out_of_memory") and left.code != 0:
        return End("out_of_memory", "the kernel ended a process of it", "memory.events: oom_kill", _MORE_MEMORY)
    return End("failed", left.failed["text"]) if left.said else None


def _outside(left: Left, record: JobRecord | None, progress: str, ours: str) -> End | None:
    """Return what ended the attempt from outside, None where nobody says so."""
    killed = left.code in (None, 0, PREEMPTED) or _signal(left.code) in (signal.SIGTERM, signal.SIGKILL)
    if left.marker.get("ended") == "driver gone":
        ours = ours or "its driver died"
    if ours and (killed or left.failed):
        return End("lost", ours)
    if record and record.state not in ENDED and record.earlier:
        record = record.earlier  # the job waits for its next turn: the attempt was in the one before
    if record and record.state in _CAUSES:
        text = _BLOCK_ENDS[record.state].format(job=record.id)
        return End(record.state, text, record.evidence, _hint(record, progress))
    if left.marker.get("told") == POOL_DIED:
        return End("lost", "its worker pool died")
    warned = left.marker.get("told") == BLOCK_WARNED
    asked = left.stopped or left.code == PREEMPTED or (warned and _signal(left.code) == signal.SIGTERM)
    if left.marker and asked:
        text = left.stopped.get("text") or "it was asked to stop"
        # After a warning the pool ends the block itself where the scheduler gives it much time.
        failed = record is not None and record.state in ("failed", "forgotten") and not warned
        return End("lost", f"{text}, and its block is gone") if failed else End("preempted", text)
    return None


def _last_guess(left: Left, lost: str) -> End:
    """Return what can be said where nobody knows why: lost where another node may be the cause, else failed."""
    text = left.failed.get("text") or left.last_line
    more = f": {text}" if text else ""
    if left.code is None:
        return End("lost", lost)
    if left.launched:
        return End("lost", left.failed.get("text") or f"its launcher ended with exit code {left.code}{more}")
    if number := _signal(left.code):
        return End("failed", f"killed by {_signal_name(number)}{more}")
    if left.code == 0:
        return End("failed", f"it ended with exit code 0 and without done.json{more}")
    return End("failed", text or f"exit code {left.code} and an empty log")


BLOCK_WARNED = "its block was warned"  # in exit.json: the scheduler has warned the block that the attempt was in
POOL_DIED = "its worker pool died"  # in exit.json, where that is why the attempt was told to end
_MORE_MEMORY = "raise resources.memory_gb, or lower train.batch_size or data.window"
_BLOCK_ENDS = {
    "out_of_memory": "its block {job} used more memory than it had asked for",
    "time_limit": "its block {job} ran into its time limit",
    "node_failure": "a node of its block {job} failed",
    "preempted": "its block {job} was preempted",
    "cancelled": "its block {job} was cancelled, not by this run",
}


def _hint(record: JobRecord, progress: str) -> str:
    hints = {"out_of_memory": _MORE_MEMORY, "time_limit": _more_time(progress)}
    hints["cancelled"] = "'hpc_kit resume' goes on; to end a run use 'hpc_kit cancel'"
    return hints.get(record.state, "")


def _more_time(progress: str) -> str:
    less = " or lower train.epochs" if progress.endswith("epochs") else ""
    return f"raise resources.walltime{less}" + (f": it had done {progress}" if progress else "")


def _signal(code: int | None) -> int | None:
    """Return the signal that ended a process, by its exit code or by a shell's; 255 is none, but a container that
    could not be started."""
    number = 0 if code is None else -code if code < 0 else code - 128
    return number if number in signal.valid_signals() else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # between SIGRTMIN and SIGRTMAX
        return f"signal {number}"
