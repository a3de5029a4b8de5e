"""Files are whole or as they were."""

import subprocess
import sys

import pytest

from hpc_kit.files import append_line, atomic_path, drop_torn_line, remove_leftovers, write_atomically
from hpc_kit.runs.records import read_lines


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_half_a_line_does_not_count_and_is_cut_before_the_next(tmp_path):
    path = tmp_path / "lines"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2')
    assert read_lines(path) == [{"n": 1}]
    drop_torn_line(path)
    append_line(path, {"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]


def test_missing_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none") == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from hpc_kit.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in ("last.pt", "last.pt", "exit.json"):
        subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path / name)])
    (tmp_path / ".last.pt.mine").touch()
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path / "last.pt", tmp_path / "best.pt")
    assert sorted(path.name[:10] for path in tmp_path.iterdir()) == [".exit.json", ".last.pt.m"]
