"""What an attempt's end means: from its own marker, its block's record and its log to a state, the evidence and the
next step. Pure.

The order of trust: done.json, then what the attempt wrote itself, then what the scheduler says of its block. That a
block has ended says nothing by itself about a task.
"""

import signal
from dataclasses import dataclass
from typing import Any

from hpc_kit.sites.scheduler import ENDED, JobRecord
from hpc_kit.spec.errors import PREEMPTED

AGAIN = ("preempted", "time_limit", "node_failure", "lost")  # what may go better the next time
_CAUSES = ("out_of_memory", "time_limit", "node_failure", "preempted", "cancelled")


@dataclass(frozen=True)
class End:
    """How an attempt ended; `hint` is what the user may do about it, `evidence` who says so, in its own words."""

    state: str
    reason: str
    evidence: str = ""
    hint: str = ""
    exit_code: int | None = None


def needs_record(done: bool, marker: dict[str, Any], last_line: str) -> bool:
    """Tell whether the scheduler's word on the block is needed: where something outside the task ended it."""
    if done or marker.get("ended") in ("cancelled", "time over") or marker.get("out_of_memory"):
        return False
    code = marker.get("exit_code")
    if code == PREEMPTED:
        return not _ran_out(last_line)
    return code is None or code < 0 or code > 128


def judge(
    done: bool, marker: dict[str, Any], last_line: str, record: JobRecord | None, lost: str, progress: str
) -> End:
    """Return how an attempt ended.

    `marker` is its exit.json ({} where it wrote none), `last_line` the end of its log, `record` what the scheduler
    says of its block (None: no scheduler, or it does not answer), `lost` what was noticed where no marker is, and
    `progress` how far the task has come, as in "40 of 100 epochs".
    """
    code, ended = marker.get("exit_code"), marker.get("ended")
    evidence = record.evidence if record and record.state in ENDED else ""
    if done:
        return End("done", "", exit_code=0)
    if ended == "cancelled":
        return End("cancelled", "on request", exit_code=code)
    if ended == "time over" or (code == PREEMPTED and _ran_out(last_line)):
        return End("time_limit", last_line or "it did not end in time", evidence, _more_time(progress), code)
    if marker.get("out_of_memory") and code != 0:
        return End("out_of_memory", "the kernel ended a process of it", "memory.events: oom_kill", _MORE_MEMORY, code)
    if code is not None and 0 < code <= 128 and code != PREEMPTED:
        return End("failed", last_line or f"exit code {code} and an empty log", exit_code=code)
    if record and record.state in _CAUSES:
        return End(
            record.state, _BLOCK_ENDS[record.state].format(job=record.id), evidence, _hint(record, progress), code
        )
    if code == PREEMPTED:
        return End("preempted", last_line, evidence, exit_code=code)
    if code is not None:
        number = -code if code < 0 else code - 128
        return End("failed", f"killed by {_signal_name(number)}: {last_line}", evidence, exit_code=code)
    return End("lost", lost, evidence or (record.evidence if record else ""))


_MORE_MEMORY = "raise resources.memory_gb, or lower train.batch_size or data.window"
_BLOCK_ENDS = {
    "out_of_memory": "its block {job} used more memory than it had asked for",
    "time_limit": "its block {job} ran into its time limit",
    "node_failure": "a node of its block {job} failed",
    "preempted": "its block {job} was preempted",
    "cancelled": "its block {job} was cancelled, not by this run",
}


def _ran_out(last_line: str) -> bool:
    """Tell whether a task ended itself because its time was nearly over (train/preempt.py)."""
    return "of the time given" in last_line


def _hint(record: JobRecord, progress: str) -> str:
    hints = {"out_of_memory": _MORE_MEMORY, "time_limit": _more_time(progress)}
    hints["cancelled"] = "'hpc_kit resume' goes on; to end a run use 'hpc_kit cancel'"
    return hints.get(record.state, "")


def _more_time(progress: str) -> str:
    return f"raise resources.walltime or lower train.epochs: it had done {progress}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
