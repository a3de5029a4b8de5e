"""What an attempt's end means: its own word first, then the scheduler's, and never an exit code alone."""

import pytest

from hpc_kit.sites.outcome import BLOCK_WARNED, POOL_DIED, Left, judge, needs_record
from hpc_kit.sites.scheduler import JobRecord

SIGNALLED = {"stopped": {"cause": "preempted", "text": "SIGTERM was sent"}, "marker": {"exit_code": 75}}
LATE = {"stopped": {"cause": "time_limit", "text": "5 s are left of the time given"}}
WRONG = {"failed": {"error": "InputError", "text": "train.epochs: must be above 0"}}
LONELY = {"failed": {"error": "RankLost", "text": "rank 1 of 2 does not answer any more"}}


def record(state: str) -> JobRecord:
    return JobRecord("17", state, f"sacct: {state.upper()}, gpua001")


def ended(code: int | None, how: str = "by itself", **more) -> dict:
    return {"marker": {"exit_code": code, "ended": how, **more}}


@pytest.mark.parametrize(
    ("left", "block", "state"),
    [
        (ended(1) | WRONG, None, "failed"),
        (ended(1) | WRONG, "time_limit", "failed"),  # its own word comes first
        (ended(2) | WRONG, "node_failure", "failed"),
        (ended(1) | WRONG | {"launched": True}, "node_failure", "failed"),
        (SIGNALLED, None, "preempted"),
        (SIGNALLED, "done", "preempted"),
        (SIGNALLED, "preempted", "preempted"),
        (SIGNALLED, "time_limit", "time_limit"),
        (SIGNALLED, "cancelled", "cancelled"),
        (SIGNALLED, "node_failure", "node_failure"),
        (SIGNALLED, "failed", "lost"),
        (SIGNALLED | {"marker": {}}, None, "lost"),  # what watched it is gone, and its end is why a signal came
        (SIGNALLED | {"marker": {}}, "preempted", "preempted"),
        (SIGNALLED | ended(75, told=POOL_DIED), "failed", "lost"),
        (SIGNALLED | ended(75, told=POOL_DIED), None, "lost"),
        (SIGNALLED | ended(75, told=BLOCK_WARNED), "preempted", "preempted"),
        (SIGNALLED | ended(75, told=BLOCK_WARNED), "failed", "preempted"),  # its pool ended the block, as it should
        (SIGNALLED | ended(75, told=BLOCK_WARNED), "cancelled", "cancelled"),
        (ended(-15, told=BLOCK_WARNED), "failed", "preempted"),  # it had not come to listen
        (ended(1, told=BLOCK_WARNED), "failed", "failed"),
        (ended(-15), "failed", "failed"),
        (ended(143) | {"stopped": SIGNALLED["stopped"]}, None, "preempted"),  # srun made another code of it
        (ended(75), "preempted", "preempted"),
        (ended(75), None, "preempted"),
        (ended(75) | LATE, "preempted", "time_limit"),
        (ended(1) | LATE | {"launched": True}, "failed", "time_limit"),
        (ended(1), None, "failed"),
        (ended(1), "node_failure", "node_failure"),
        (ended(1) | {"launched": True}, "node_failure", "node_failure"),
        (ended(1) | {"launched": True}, "running", "lost"),
        (ended(1) | LONELY | {"launched": True}, "node_failure", "node_failure"),
        (ended(1) | LONELY | {"launched": True}, "running", "lost"),
        (ended(1) | LONELY, None, "failed"),
        (ended(0), None, "failed"),
        (ended(255), "done", "failed"),  # a container that could not be started, in a block that is well
        (ended(-9), None, "failed"),
        (ended(137), "out_of_memory", "out_of_memory"),
        (ended(-9, out_of_memory=True), None, "out_of_memory"),
        (ended(75, "time over"), "running", "time_limit"),
        (ended(75, "cancelled"), "cancelled", "cancelled"),
        (ended(-15, "driver gone"), None, "lost"),
        ({}, None, "lost"),
        ({}, "done", "lost"),
        ({}, "unknown", "lost"),
        ({}, "forgotten", "lost"),
        ({}, "node_failure", "node_failure"),
        ({}, "preempted", "preempted"),
    ],
)
def test_cause_of_an_end(left, block, state):
    left = Left(**left, last_line="last words")
    found = judge(left, block and record(block), "its worker was lost", "40 of 100 epochs")
    assert found.state == state
    assert found.reason and not found.reason.endswith((": ", ":"))
    assert found.exit_code == left.code
    if block and state == block:
        assert found.evidence == f"sacct: {block.upper()}, gpua001" or left.marker.get("ended") == "cancelled"


def test_done_is_done_whatever_became_of_the_block():
    for block in ("node_failure", "time_limit", "cancelled"):
        assert judge(Left(done=True), record(block), "lost", "").state == "done"


@pytest.mark.parametrize("line", ["", "5 s are left of the time given", "CANCELLED", "Traceback: Out of memory"])
def test_no_word_of_a_log_decides(line):
    assert judge(Left(last_line=line, **ended(1)), None, "", "").state == "failed"
    assert judge(Left(last_line=line, **SIGNALLED), None, "", "").state == "preempted"
    assert needs_record(Left(last_line=line, **SIGNALLED))


def test_time_limit_says_how_far_it_was_and_what_to_do():
    end = judge(Left(**LATE), None, "", "40 of 100 epochs")
    assert (end.state, end.reason) == ("time_limit", "5 s are left of the time given")
    assert end.hint == "raise resources.walltime or lower train.epochs: it had done 40 of 100 epochs"
    assert judge(Left(**LATE), None, "", "4 of 9 steps").hint == "raise resources.walltime: it had done 4 of 9 steps"
    assert judge(Left(**LATE), None, "", "").hint == "raise resources.walltime"


def test_container_that_could_not_be_started_is_told_in_its_words():
    left = Left(last_line="FATAL: could not open image node.sif", **ended(255))
    assert judge(left, record("done"), "", "").reason == "FATAL: could not open image node.sif"


def test_signal_without_a_log_is_named_with_nothing_behind_it():
    assert judge(Left(**ended(-11)), None, "", "").reason == "killed by SIGSEGV"
    assert judge(Left(last_line="epoch 3", **ended(139)), None, "", "").reason == "killed by SIGSEGV: epoch 3"


@pytest.mark.parametrize(
    ("left", "state"),
    [
        (ended(-15), "lost"),
        (ended(143), "lost"),
        (ended(-9), "lost"),
        (SIGNALLED, "lost"),
        ({}, "lost"),
        (ended(1) | LONELY, "lost"),
        (ended(1) | WRONG, "failed"),
        (ended(-11), "failed"),
        (ended(75) | LATE, "time_limit"),
    ],
)
def test_what_this_run_itself_ended_is_not_called_failed_or_preempted(left, state):
    end = judge(Left(**left), None, "nothing was noticed", "", ours="its driver died before it ended")
    assert end.state == state
    assert state != "lost" or end.reason == "its driver died before it ended"


def test_attempt_in_a_job_that_was_queued_again_ended_as_the_job_did_before():
    again = JobRecord("17", "queued", "sacct: PENDING", earlier=record("node_failure"))
    end = judge(Left(), again, "its worker was lost", "")
    assert (end.state, end.evidence) == ("node_failure", "sacct: NODE_FAILURE, gpua001")


@pytest.mark.parametrize(
    ("left", "needed"),
    [
        (ended(1) | WRONG, False),
        (ended(1), True),
        (ended(1) | LONELY, True),
        (ended(75) | LATE, False),
        (SIGNALLED, True),
        (ended(-9), True),
        (ended(143), True),
        (ended(75, "cancelled"), False),
        ({}, True),
    ],
)
def test_scheduler_is_asked_only_where_it_knows_more(left, needed):
    assert needs_record(Left(**left)) == needed
    assert not needs_record(Left(done=True, **left))
