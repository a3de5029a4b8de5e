"""The worker pool of a node: its temporary folder, and what it says of its end."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hpc_kit.runs.process import AT_WORK, TMPDIR_OF_TASKS
from hpc_kit.sites import pool
from hpc_kit.sites.outcome import POOL_DIED


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch) -> Path:
    """A folder for temporary files with a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_folder_of_a_killed_pool_is_removed_by_the_next(temporary):
    code = "import os, sys, signal, tempfile; from hpc_kit.sites import pool; tempfile.tempdir = sys.argv[1]\n"
    code += "with pool.temporary_folder(): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code, str(temporary)]).returncode == -9
    [left] = temporary.iterdir()
    with pool.temporary_folder() as first, pool.temporary_folder() as second:
        assert not left.exists() and first.exists()  # the first is of a process that lives
        assert {first, second} == set(temporary.iterdir())
        assert second.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_folder_of_a_process_number_that_was_given_again_is_removed(temporary):
    old = temporary / f"{pool.PREFIX}{os.getpid()}-abc"
    old.mkdir()
    os.utime(old, (0, 0))
    others = [temporary / name for name in (f"{pool.PREFIX}notes", "hpc_kit-0-1234", f"{pool.PREFIX}999999999-link")]
    others[0].mkdir(), others[1].mkdir(), others[2].symlink_to(others[0])
    with pool.temporary_folder():
        assert not old.exists()
        assert all(path.exists() for path in others)


def test_long_folder_for_temporary_files_is_reached_by_a_short_link(temporary, monkeypatch):
    long = temporary / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with pool.temporary_folder() as folder:
        told = pool.temporary_places(folder)
        assert told["TMPDIR"] == str(folder)
        assert len(told[TMPDIR_OF_TASKS]) < pool.LONGEST and Path(told[TMPDIR_OF_TASKS]).resolve() == long
        code = "from multiprocessing import Manager; import tempfile; open(tempfile.gettempdir() + '/a', 'w')\n"
        code += "if __name__ == '__main__': print(Manager().list([7]))"
        script = folder / "script.py"
        script.write_text(code)
        of_a_task = os.environ | {"TMPDIR": told[TMPDIR_OF_TASKS]}
        done = subprocess.run([sys.executable, script], env=of_a_task, capture_output=True, text=True)
        assert done.stdout == "[7]\n", done.stderr
        assert (long / "a").exists()
    assert long.exists()


def test_short_folder_for_temporary_files_is_the_tasks_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert pool.temporary_places(tmp_path) == {"TMPDIR": str(tmp_path), TMPDIR_OF_TASKS: "/tmp"}
    monkeypatch.delenv("TMPDIR")
    assert pool.temporary_places(tmp_path)[TMPDIR_OF_TASKS] == ""


def test_pool_that_ends_unasked_says_so_to_its_tasks(tmp_path):
    ending, process = tmp_path / "ending", subprocess.Popen(["false"])
    pool._attend(process, ending, [])
    assert ending.read_text() == POOL_DIED


def test_warning_is_why_a_warned_pool_ends(tmp_path):
    ending, process = tmp_path / "ending", subprocess.Popen(["sleep", "60"])
    pool._attend(process, ending, [0.0])
    assert "warned" in ending.read_text() and process.returncode == -9


def test_pool_stays_for_the_schedulers_word_where_its_warning_ended_the_task_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "LAST_WORD_S", 1.0)
    (tmp_path / f"{AT_WORK}seed0").touch()
    process, began = subprocess.Popen(["sleep", "60"]), time.monotonic()
    pool._attend(process, tmp_path / "ending", [began])
    assert process.returncode == -9 and time.monotonic() - began > 1.0


@pytest.mark.parametrize("wrong", [0, 10800, -10800])
def test_end_of_a_block_is_told_by_the_clock_of_the_node(tmp_path, monkeypatch, wrong):
    began = tmp_path / "block.began"
    began.touch()
    right = time.time
    os.utime(began, (right() - 100, right() - 100))
    variables = {pool.BLOCK_TIME: "900", pool.BLOCK_BEGAN: str(began)}
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    assert float(pool.block_end(variables)[pool.BLOCK_END]) - time.time() == pytest.approx(800, abs=3)


def test_outside_a_block_there_is_no_end():
    assert pool.block_end({}) == {}
