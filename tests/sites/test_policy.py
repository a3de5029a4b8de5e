"""How many tasks fit, and refusals where none does."""

from pathlib import Path

import pytest

from hpc_kit import machine
from hpc_kit.sites.parsl_config import parsl_config
from hpc_kit.sites.policy import slots
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site, load_site

LOCAL = load_site("local")


def test_slots_are_the_usable_cores_over_those_a_task_takes():
    assert slots(LOCAL, Resources(gpus_per_rank=0, cpus_per_rank=1)) == machine.usable_cores()


def test_no_more_tasks_than_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert slots(LOCAL, Resources(gpus_per_rank=1, cpus_per_rank=1)) == 1


def test_site_may_say_how_many():
    site = Site(name="box", description="a box", scheduler="local", slots=7)
    assert slots(site, Resources(gpus_per_rank=0, cpus_per_rank=1)) == 7


def test_task_larger_than_the_machine_is_refused_with_what_fits():
    with pytest.raises(InputError, match="cpus_per_rank=[0-9]+ fits"):
        slots(LOCAL, Resources(gpus_per_rank=0, cpus_per_rank=100000))


@pytest.mark.parametrize(
    ("ranks", "cpus", "gpus", "message"),
    [
        (
            2,
            9,
            0,
            "cpus_per_rank is 9 for each of 2 ranks but 8 cores are usable .*--set resources.cpus_per_rank=4",
        ),
        (16, 2, 0, "--set resources.ranks_per_node=4 fits"),
        (5, 1, 1, "ranks_per_node is 5, each with a GPU, but this machine shows 4; .*ranks_per_node=4 fits"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(monkeypatch, ranks, cpus, gpus, message):
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with pytest.raises(InputError, match=message):
        slots(LOCAL, Resources(ranks_per_node=ranks, cpus_per_rank=cpus, gpus_per_rank=gpus))


def test_all_ranks_of_a_task_are_counted(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert slots(LOCAL, Resources(ranks_per_node=2, cpus_per_rank=2, gpus_per_rank=0)) == 4
    resources = Resources(ranks_per_node=2, cpus_per_rank=2, gpus_per_rank=1)
    assert slots(LOCAL, resources) == 2
    [executor] = parsl_config(LOCAL, resources, Path("/runs/a/parsl")).executors
    assert executor.available_accelerators == ["0,1", "2,3"]


def test_local_site_is_one_node():
    with pytest.raises(InputError, match="resources.nodes is 2 but site 'local' is one machine"):
        slots(LOCAL, Resources(nodes=2))


def test_gpu_asked_for_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="shows no GPU"):
        slots(LOCAL, Resources(gpus_per_rank=1, cpus_per_rank=1))
