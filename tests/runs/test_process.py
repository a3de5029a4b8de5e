"""What an attempt tells the worker pool of its node, and what it waits to be told."""

import sys
import threading
import time

import pytest
from conftest import small_run

from hpc_kit.runs.process import AT_WORK, BLOCK_ENDING, WORD_WITHIN_S, supervise
from hpc_kit.sites.outcome import BLOCK_WARNED

STOPPED = """
import json, sys
json.dump({"cause": "preempted", "text": "SIGTERM was sent"}, open(f"{sys.argv[1]}/stopped.json", "w"))
sys.exit(75)
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The folder of a worker pool, and a task that is run under it."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setenv(BLOCK_ENDING, str(folder / "ending"))
    run = small_run(tmp_path / "run", "seeds=[0]")
    return folder, run.task(run.read_plan().tasks[0].id)


def attempt(task, code: str) -> dict:
    return supervise([sys.executable, "-c", code, str(task.path)], {}, task, 1, None)


def test_attempt_that_a_signal_ended_waits_for_its_pools_word_and_leaves_its_mark(node):
    folder, task = node

    def warn():
        while not task.stopped.exists():
            time.sleep(0.05)
        time.sleep(0.5)
        (folder / "ending").write_text(BLOCK_WARNED)

    pool = threading.Thread(target=warn)
    pool.start()
    assert attempt(task, STOPPED)["told"] == BLOCK_WARNED
    assert [path.name for path in folder.glob(f"{AT_WORK}*")] == [f"{AT_WORK}{task.path.name}"]
    pool.join()


def test_signal_that_no_warning_sent_is_waited_for_in_vain(node):
    _, task = node
    began = time.monotonic()
    found = attempt(task, "import os; os.kill(os.getpid(), 15)")
    assert (found["exit_code"], found["told"]) == (-15, "")
    assert WORD_WITHIN_S < time.monotonic() - began < 10 * WORD_WITHIN_S


def test_attempt_that_ends_by_itself_is_marked_while_it_is_at_work(node):
    folder, task = node
    look = f"import pathlib; print(len(list(pathlib.Path({str(folder)!r}).glob('{AT_WORK}*'))))"
    attempt(task, look)
    assert task.log.read_text() == "1\n"
    assert list(folder.glob(f"{AT_WORK}*")) == []
