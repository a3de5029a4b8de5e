"""What an attempt's end means: its own marker first, then the scheduler's word on its block."""

import pytest

from hpc_kit.sites.outcome import judge, needs_record
from hpc_kit.sites.scheduler import JobRecord

SIGNALLED = {"exit_code": 75, "ended": "by itself"}


def record(state: str) -> JobRecord:
    return JobRecord("17", state, f"sacct: {state.upper()}, gpua001")


@pytest.mark.parametrize(
    ("marker", "block", "state"),
    [
        ({"exit_code": 1, "ended": "by itself"}, None, "failed"),
        ({"exit_code": 1, "ended": "by itself"}, "time_limit", "failed"),  # its own word comes first
        ({"exit_code": 2, "ended": "by itself"}, "node_failure", "failed"),
        (SIGNALLED, None, "preempted"),
        (SIGNALLED, "done", "preempted"),
        (SIGNALLED, "preempted", "preempted"),
        (SIGNALLED, "time_limit", "time_limit"),
        (SIGNALLED, "cancelled", "cancelled"),
        (SIGNALLED, "node_failure", "node_failure"),
        ({"exit_code": -9, "ended": "by itself"}, None, "failed"),
        ({"exit_code": 137, "ended": "by itself"}, "out_of_memory", "out_of_memory"),
        ({"exit_code": -9, "ended": "by itself", "out_of_memory": True}, None, "out_of_memory"),
        ({"exit_code": 75, "ended": "time over"}, "running", "time_limit"),
        ({"exit_code": 75, "ended": "cancelled"}, "cancelled", "cancelled"),
        ({}, None, "lost"),
        ({}, "done", "lost"),
        ({}, "unknown", "lost"),
        ({}, "node_failure", "node_failure"),
        ({}, "preempted", "preempted"),
    ],
)
def test_cause_of_an_end(marker, block, state):
    found = judge(False, marker, "last words", block and record(block), "its worker was lost", "40 of 100 epochs")
    assert found.state == state
    assert found.reason
    if block and state == block:
        assert found.evidence == f"sacct: {block.upper()}, gpua001" or marker.get("ended") == "cancelled"


def test_done_is_done_whatever_became_of_the_block():
    for block in ("node_failure", "time_limit", "cancelled"):
        assert judge(True, {}, "", record(block), "lost", "").state == "done"


def test_time_limit_says_how_far_it_was_and_what_to_do():
    words = "12 s are left of the time given; last.pt holds epoch 40 up to batch 0"
    end = judge(False, SIGNALLED, words, None, "", "40 of 100 epochs")
    assert (end.state, end.reason) == ("time_limit", words)
    assert end.hint == "raise resources.walltime or lower train.epochs: it had done 40 of 100 epochs"


@pytest.mark.parametrize(
    ("marker", "needed"),
    [
        ({"exit_code": 1, "ended": "by itself"}, False),
        ({"exit_code": 2, "ended": "by itself"}, False),
        (SIGNALLED, True),
        ({"exit_code": -9, "ended": "by itself"}, True),
        ({"exit_code": 143, "ended": "by itself"}, True),
        ({"exit_code": 75, "ended": "cancelled"}, False),
        ({}, True),
    ],
)
def test_scheduler_is_asked_only_where_it_knows_more(marker, needed):
    assert needs_record(False, marker, "SIGTERM was sent") == needed
    assert not needs_record(True, marker, "SIGTERM was sent")


def test_scheduler_is_not_asked_why_a_task_that_ran_out_of_time_ended():
    assert not needs_record(False, SIGNALLED, "5 s are left of the time given; last.pt holds epoch 3")
