"""What tests have at hand: a real Slurm, a real Apptainer, and stand-ins for PBS and Cobalt."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import apptainer as real_apptainer
from testbed import debian
from testbed.slurm import Cluster
from testbed.standins import cobalt, pbs  # noqa: F401

CHROMIUM = "chromium-headless-shell"  # Debian's name of the package and of its command


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """The cluster, for all tests of a session. HPC_KIT_TESTBED=required fails where it cannot be had."""
    _have_or_skip(debian.missing("a Slurm cluster"))
    with debian.locked("cluster", wait=False) as ours:
        if not ours:
            pytest.fail(
                "another process has the test cluster. Under -n all of its tests belong to one process: pytest-xdist"
                " 3.8.0 groups tests up to pytest 9.1, and with 9.2 does not (constraints.txt)"
            )
        cluster = Cluster()
        cluster.up()
        yield cluster
        cluster.down()


@pytest.fixture(scope="session")
def apptainer() -> None:
    """A real Apptainer on PATH. HPC_KIT_TESTBED=required fails where it cannot be had."""
    _have_or_skip(real_apptainer.missing())
    real_apptainer.install()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a real browser without a window. HPC_KIT_TESTBED=required fails where it cannot be had."""
    if not shutil.which(CHROMIUM):
        _have_or_skip(debian.missing("a browser"))
        debian.install((CHROMIUM,), (CHROMIUM, "fonts-dejavu-core"))
    return shutil.which(CHROMIUM)


@pytest.fixture(scope="session")
def node_cpu(apptainer, tmp_path_factory) -> Path:
    """The image node-cpu, built from its lock on a root file system of Debian."""
    folder = tmp_path_factory.mktemp("images")
    show_to_all(folder)
    argv = [
        "image",
        "build",
        "node-cpu",
        "--base",
        folder / "base",
        "--out",
        folder / "node-cpu.sif",
        "--reproducible",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "hpc_kit", *map(str, argv)], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "node-cpu.sif"


def show_to_all(folder: Path) -> None:
    """Let other users than root into `folder`, one of pytest's, whose temporary folders are closed to them."""
    for above in (folder, *folder.parents):
        if above.name.startswith("pytest-of-"):
            above.chmod(0o755)
            return
        above.chmod(0o755)


def _have_or_skip(reason: str) -> None:
    if reason:
        (pytest.fail if os.environ.get("HPC_KIT_TESTBED") == "required" else pytest.skip)(reason)


@pytest.fixture
def slurm(slurm_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with nothing in its queue before and after."""
    slurm_cluster.clear()
    yield slurm_cluster
    slurm_cluster.clear()
