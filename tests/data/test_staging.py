"""Staged copies lie where other users may have come first: theirs are refused, damaged ones are made anew."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ListSource
from data.test_loader import GRAPH, structures

from hpc_kit.data.loader import Dataset
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.shards import read_shard_set
from hpc_kit.spec.errors import InputError

NOBODY = 65534


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "set"
    prepare(ListSource(structures()[:20], e="eV"), folder, Settings(GRAPH, shard_size=13), workers=0)
    return folder


@pytest.fixture
def stage(tmp_path) -> Path:
    return tmp_path / "stage"


def open_staged(folder, stage) -> Dataset:
    return Dataset(folder, ["e"], GRAPH, stage=stage)


def home(stage) -> Path:
    (only,) = stage.iterdir()
    return only


def test_copy_is_this_users_alone(folder, stage):
    open_staged(folder, stage)
    assert {path.stat().st_mode & 0o077 for path in [home(stage), *home(stage).iterdir()]} == {0}
    assert home(stage).name.startswith(f"hpc_kit-{os.geteuid()}-")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pos.npy", flip),
        ("target-0.npy", flip),
        ("src.npy", Path.unlink),
        ("z.npy", lambda path: path.write_bytes(path.read_bytes()[:-5])),
        ("cell.npy", lambda path: path.write_bytes(b"")),
        ("dst.npy", link),
        ("listing.json", Path.unlink),
        ("listing.json", lambda path: path.write_text("[]")),
        ("listing.json", lambda path: path.write_text(path.read_text().replace("cutoff", "cutof"))),
    ],
)
def test_damaged_copy_is_made_anew(folder, stage, name, damage):
    before = open_staged(folder, stage)
    damage(home(stage) / name)
    data = open_staged(folder, stage)
    expected = read_shard_set(folder, read_manifest(folder))
    for dataset in (before, data):  # who has mapped the old copy keeps it, but for what was changed in place
        np.testing.assert_array_equal(dataset.ids, expected.ids)
    np.testing.assert_array_equal(data._store._pos, expected.pos)
    np.testing.assert_array_equal(data.targets[:, 0], expected.targets["e"])


@pytest.fixture
def planted(folder, stage, tmp_path) -> Path:
    """Where the copy would go, with nothing there; others know the name."""
    open_staged(folder, stage)
    place = home(stage)
    place.rename(tmp_path / "theirs")
    return place


def test_link_in_its_place_is_refused_and_not_followed(folder, stage, planted, tmp_path):
    flip(tmp_path / "theirs" / "target-0.npy")
    before = {path: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    planted.symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match=f"{planted.name}: the data cannot be staged there: is a link or a file"):
        open_staged(folder, stage)
    assert {path: path.read_bytes() for path in (tmp_path / "theirs").iterdir()} == before


def test_file_in_its_place_is_refused(folder, stage, planted):
    planted.write_text("")
    with pytest.raises(InputError, match="is a link or a file where a folder of yours was to be: remove it"):
        open_staged(folder, stage)


def test_folder_that_others_may_enter_is_refused(folder, stage, planted):
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(InputError, match=r"belongs to you and is open to others \(mode 777\)"):
        open_staged(folder, stage)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to somebody else takes root")
def test_folder_of_somebody_else_is_refused(folder, stage, planted, tmp_path):
    (tmp_path / "theirs").rename(planted)
    os.chown(planted, NOBODY, NOBODY)
    with pytest.raises(InputError, match="belongs to somebody else, so its content is not to be trusted"):
        open_staged(folder, stage)


def test_lock_is_not_written_through_a_link(folder, stage, tmp_path):
    (tmp_path / "precious").write_text("thesis")
    open_staged(folder, stage)
    place = home(stage)
    (place / "lock").unlink()
    (place / "lock").symlink_to(tmp_path / "precious")
    (place / "listing.json").unlink()
    with pytest.raises(InputError, match="cannot be staged there"):
        open_staged(folder, stage)
    assert (tmp_path / "precious").read_text() == "thesis"


FULL = """
import os, subprocess, sys
from pathlib import Path
from hpc_kit.data.loader import Dataset
from hpc_kit.spec.errors import WorkError
from hpc_kit.spec.data import Graph

disk = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)], check=True)
try:
    Dataset(Path(sys.argv[1]), ["e"], Graph(cutoff=4.0), stage=disk)
except WorkError as error:
    print(error)
print(*(path.name for path in disk.rglob("*") if path.is_file()))
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="this machine does not let its users mount a small disk to fill",
)
def test_full_disk_of_a_node_is_said_and_given_back(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    script = ["unshare", "-rm", sys.executable, "-c", FULL, folder, tmp_path / "disk"]
    out = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert "the data cannot be staged there: No space left on device\nlock\n" in out.stdout, out.stdout + out.stderr
