"""What a checkpoint states of itself is read without torch, and nothing in the file is run."""

import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from hpc_kit.runs.stated import stated

SPEC = {"name": "schnet", "hidden": 16}


def checkpoint(path, **more):
    torch.save({"model": {"a": torch.zeros(2, 3)}, "spec": SPEC, "random": torch.get_rng_state(), **more}, path)
    return path


def test_plain_values_are_read_without_torch(tmp_path):
    path = checkpoint(tmp_path / "best.pt")
    code = "import sys, hpc_kit.runs.stated as s; print(s.stated(sys.argv[1])['spec'], 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert told.stdout == f"{SPEC} False\n", told.stderr


class Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_what_a_file_would_run_is_not_run(tmp_path):
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps({"spec": SPEC, "harm": Harm(tmp_path / "harmed")}))
    assert stated(path)["spec"] == SPEC
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("cut", [0, 10, 100, 400, 900])
def test_a_damaged_file_states_nothing(tmp_path, cut):
    path = checkpoint(tmp_path / "best.pt")
    path.write_bytes(path.read_bytes()[:cut])
    assert stated(path) == {}


def test_a_damaged_table_is_no_traceback(tmp_path):
    with zipfile.ZipFile(checkpoint(tmp_path / "best.pt")) as archive:
        table = archive.read("best/data.pkl")
    for place in range(0, len(table), 7):
        path = tmp_path / "damaged.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", table[:place] + bytes([table[place] ^ 0xFF]) + table[place + 1 :])
        assert isinstance(stated(path), dict)
