"""The ledger replays to what was written, and an attempt that ended has ended."""

import pytest

from hpc_kit.runs.ledger import Ledger
from hpc_kit.runs.records import read_lines


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl", ["a", "b"])


def test_replay_gives_the_state_of_the_last_attempt(ledger):
    ledger.submit(["a"])
    ledger.start("a", {"host": "n1", "job": None})
    ledger.end("a", "failed", "no space", 1)
    ledger.submit(["a"])
    ledger.start("a", {"host": "n1", "job": None})
    ledger.end("a", "done", exit_code=0)
    replayed = Ledger(ledger.path, ["a", "b"]).tasks
    assert (replayed["a"].state, replayed["a"].attempt, replayed["b"].state) == ("done", 2, "planned")
    assert replayed["a"].before == "failed: no space"
    assert [line["state"] for line in read_lines(ledger.path)][:3] == ["submitted", "started", "failed"]


def test_terminal_state_of_an_attempt_never_changes(ledger):
    ledger.submit(["a"])
    ledger.end("a", "cancelled")
    before = ledger.path.read_text()
    with pytest.raises(ValueError, match="already ended as cancelled"):
        ledger.end("a", "done")
    assert ledger.path.read_text() == before


def test_line_cut_off_by_a_kill_is_dropped(ledger):
    ledger.submit(["a"])
    with ledger.path.open("a") as file:
        file.write('{"task": "a", "sta')
    Ledger.repair(ledger.path)
    again = Ledger(ledger.path, ["a", "b"])
    again.start("a", {"host": "n1", "job": None})
    assert Ledger(ledger.path, ["a", "b"]).tasks["a"].state == "started"


def test_preempted_task_waits_for_its_next_attempt_or_its_end(ledger):
    for task_id in "ab":
        ledger.submit([task_id])
        ledger.end(task_id, "preempted", "SIGTERM was sent", 75, again=True)
    ledger.submit(["a"])
    ledger.end("b", "cancelled", "on request")
    tasks = Ledger(ledger.path, ["a", "b"]).tasks
    assert [(tasks[x].state, tasks[x].attempt) for x in "ab"] == [("submitted", 2), ("cancelled", 1)]
