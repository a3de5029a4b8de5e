"""What tests start to have a scheduler at hand: a real Slurm, and stand-ins for PBS and Cobalt."""

import os
from collections.abc import Iterator

import pytest

from testbed.slurm import Cluster, missing
from testbed.standins import cobalt, pbs  # noqa: F401


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """The cluster, for all tests of a session. HPC_KIT_TESTBED=required fails where it cannot be had."""
    if reason := missing():
        (pytest.fail if os.environ.get("HPC_KIT_TESTBED") == "required" else pytest.skip)(reason)
    cluster = Cluster()
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture
def slurm(slurm_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with nothing in its queue before and after."""
    slurm_cluster.clear()
    yield slurm_cluster
    slurm_cluster.clear()
