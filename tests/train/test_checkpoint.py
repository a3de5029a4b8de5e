"""Checkpoints: whole or not at all, and nothing in them is run."""

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from hpc_kit.spec.errors import WorkError
from hpc_kit.train.checkpoint import (
    load_checkpoint,
    parse_checkpoint,
    parse_foreign,
    random_state,
    restore_random_state,
    save_checkpoint,
)

FULL_DISK = """
import subprocess, sys, torch
from pathlib import Path
from hpc_kit.spec.errors import WorkError
from hpc_kit.train.checkpoint import load_checkpoint, save_checkpoint

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], check=True)
save_checkpoint(disk / "last.pt", {"epoch": 1, "weights": torch.zeros(1000)})
try:
    save_checkpoint(disk / "last.pt", {"epoch": 2, "weights": torch.zeros(1000000)})
except WorkError as error:
    print(error)
print("kept", load_checkpoint(disk / "last.pt")["epoch"], [p.name for p in disk.iterdir()])
"""


def can_mount() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this machine does not let its users mount a small disk to fill")
def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    out = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert "No space left on device; the previous one is kept" in out.stdout, out.stderr
    assert out.stdout.splitlines()[-1] == "kept 1 ['last.pt']"


def test_state_comes_back(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"weights": torch.arange(3.0), "epoch": 7})
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["epoch"] == 7 and state["weights"].tolist() == [0.0, 1.0, 2.0]


def test_damaged_checkpoint_is_named_with_the_remedy(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"weights": torch.arange(3.0)})
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkError, match=r"c.pt: is no whole checkpoint of hpc_kit.* Remove last.pt and best.pt"):
        load_checkpoint(tmp_path / "c.pt")


def test_one_wrong_bit_anywhere_is_refused_naming_the_file(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.arange(20.0), "epoch": 7, "more": [1.5, None]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(WorkError, match=r"c.pt: is (damaged: its bytes do not fit|no whole checkpoint)"):
            parse_checkpoint(path, bytes(damaged))
    assert torch.load(path, weights_only=True)["epoch"] == 7  # torch reads the file as it is


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(WorkError, match=r"c.pt: cannot be read: No such file"):
        load_checkpoint(tmp_path / "c.pt")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"x": Harmful()}, buffer)
    save_checkpoint(tmp_path / "c.pt", {"x": Harmful()})  # with a checksum that fits
    for content in (pickle.dumps(Harmful(), protocol=2), buffer.getvalue(), (tmp_path / "c.pt").read_bytes()):
        for read in (parse_foreign, parse_checkpoint):
            with pytest.raises(WorkError) as refusal:
                read(tmp_path / "c.pt", content)
            assert "weights_only" not in str(refusal.value) and "c.pt" in str(refusal.value)
    assert not (tmp_path / "harm-was-done").exists()


def test_random_generators_go_on_where_they_were(tmp_path):
    np.random.seed(1)
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "c.pt", random_state())
    first = (np.random.rand(), torch.rand(1).item())
    restore_random_state(load_checkpoint(tmp_path / "c.pt"))
    assert (np.random.rand(), torch.rand(1).item()) == first
