"""How many tasks fit, and refusals where none does."""

import pytest

from hpc_kit import machine
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


def test_gpu_asked_for_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="shows no GPU"):
        slots(LOCAL, Resources(gpus_per_rank=1, cpus_per_rank=1))
