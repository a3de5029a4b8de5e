"""What tests have at hand: a real Slurm, a real Apptainer, and stand-ins for PBS and Cobalt."""

import os
from collections.abc import Iterator

import pytest

from testbed import apptainer as real_apptainer
from testbed import debian
from testbed.slurm import Cluster
from testbed.standins import cobalt, pbs  # noqa: F401


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """The cluster, for all tests of a session. HPC_KIT_TESTBED=required fails where it cannot be had."""
    _have_or_skip(debian.missing("a Slurm cluster"))
    cluster = Cluster()
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def apptainer() -> None:
    """A real Apptainer on PATH. HPC_KIT_TESTBED=required fails where it cannot be had."""
    _have_or_skip(real_apptainer.missing())
    real_apptainer.install()


def _have_or_skip(reason: str) -> None:
    if reason:
        (pytest.fail if os.environ.get("HPC_KIT_TESTBED") == "required" else pytest.skip)(reason)


@pytest.fixture
def slurm(slurm_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with nothing in its queue before and after."""
    slurm_cluster.clear()
    yield slurm_cluster
    slurm_cluster.clear()
