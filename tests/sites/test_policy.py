"""How many tasks fit, and refusals where none does."""

import re

import pytest

from hpc_kit import machine
from hpc_kit.sites.policy import estimate, notes, plan_blocks, problems, slots
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


def test_local_site_is_one_node():
    with pytest.raises(InputError, match="resources.nodes is 2 but site 'local' is one machine"):
        slots(LOCAL, Resources(nodes=2))


def test_gpu_asked_for_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="shows no GPU"):
        slots(LOCAL, Resources(gpus_per_rank=1, cpus_per_rank=1))


DELTA = load_site("delta", account="abcd-delta-gpu")


def cost(site: Site, tasks: int = 1, **resources):
    resources = Resources(**resources)
    return estimate(site, resources, tasks, plan_blocks(site, resources, tasks))


@pytest.mark.parametrize(
    ("partition", "resources", "hourly", "dominant"),
    [
        ("gpuA100x4", {"cpus_per_rank": 16}, 1.0, "gpus"),
        ("gpuA100x4", {"cpus_per_rank": 64}, 4.0, "cores"),
        ("gpuA100x4", {"cpus_per_rank": 8, "memory_gb": 125}, 2.0, "memory_gb"),
        ("gpuA100x4", {"cpus_per_rank": 8, "ranks_per_node": 4}, 4.0, "gpus"),
        ("gpuA100x4", {"cpus_per_rank": 8, "ranks_per_node": 4, "nodes": 3}, 12.0, "gpus"),
        ("gpuA100x4-preempt", {"cpus_per_rank": 16}, 0.5, "gpus"),
        ("gpuA100x4-interactive", {"cpus_per_rank": 16}, 2.0, "gpus"),
        ("gpuA40x4", {"cpus_per_rank": 16}, 0.5, "gpus"),
        ("gpuH200x8", {"cpus_per_rank": 12}, 3.0, "gpus"),
        ("cpu", {"cpus_per_rank": 64, "gpus_per_rank": 0}, 4.0, "cores"),
    ],
)
def test_delta_charges_the_largest_term(partition, resources, hourly, dominant):
    site = DELTA.model_copy(update={"partition": partition})
    found = cost(site, **resources)
    assert (found.hourly, found.dominant) == (pytest.approx(hourly), dominant)


def test_estimate_is_of_all_tasks_and_names_what_is_cheaper():
    found = cost(DELTA, tasks=8, cpus_per_rank=16, walltime="01:00:00")
    # 8 tasks in 2 blocks of 4 GPUs, each an hour and five minutes to start and to end
    assert found.total == pytest.approx(2 * 4 * (1 + 5 / 60))
    assert found.cheapest[0] == "gpuA40x4" and found.cheapest[1] == pytest.approx(found.total / 2)
    assert found.preemptible[0] == "gpuA40x4-preempt" and found.preemptible[1] == pytest.approx(found.total / 4)


def test_blocks_are_sized_to_the_work_left():
    resources = Resources(cpus_per_rank=16, walltime="01:00:00")
    few, many = plan_blocks(DELTA, resources, 3), plan_blocks(DELTA, resources, 100)
    assert (few.blocks, few.slots, few.gpus, few.cores, few.rounds) == (1, 3, 3, 48, 1)
    assert (many.blocks, many.slots, many.gpus, many.rounds) == (4, 4, 4, 7)
    assert few.walltime_s == 3600 + 300 and many.walltime_s == 7 * 3600 + 300


def test_blocks_stay_within_the_walltime_of_their_partition():
    plan = plan_blocks(DELTA, Resources(cpus_per_rank=16, walltime="20:00:00"), 100)
    assert (plan.rounds, plan.walltime_s) == (2, 2 * 72000 + 300)
    assert problems(DELTA, Resources(cpus_per_rank=16, walltime="20:00:00"), plan) == []


def test_whole_nodes_are_asked_for_whole():
    polaris = load_site("polaris", account="p")
    resources = Resources(cpus_per_rank=8)
    plan = plan_blocks(polaris, resources, 1)
    assert (plan.cores, plan.gpus, plan.whole_nodes, plan.slots) == (32, 4, True, 1)
    assert any("24 of 32 cores stay idle" in note for note in notes(polaris, resources, plan))


def test_block_of_a_partition_with_a_least_size_holds_several_tasks():
    prod = load_site("polaris", account="p", partition="prod-small")
    plan = plan_blocks(prod, Resources(nodes=4, ranks_per_node=4, cpus_per_rank=8), 3)
    assert (plan.nodes, plan.slots) == (12, 3)


def test_gpus_of_one_node_are_asked_for_in_the_counts_there_are():
    sophia = load_site("sophia", account="p")
    assert plan_blocks(sophia, Resources(cpus_per_rank=8), 3).gpus == 4


@pytest.mark.parametrize(
    ("site", "partition", "account", "resources", "message"),
    [
        ("delta", None, None, {}, r"charges an account \(like abcd-delta-gpu\): name it with --account"),
        ("delta", "cpu", "a", {}, "has no GPUs and resources.gpus_per_rank is 1"),
        ("delta", None, "a", {"gpus_per_rank": 0}, "is for GPUs and resources.gpus_per_rank is 0"),
        ("delta", "gpuH200x8", "a", {"nodes": 2}, "takes 1 node a job; the block asks for 2"),
        ("delta", "gpuA100x8", "a", {"nodes": 7}, "has 6 nodes; the block asks for 7"),
        (
            "delta",
            None,
            "a",
            {"walltime": "49:00:00"},
            "is 49:00:00 and partition 'gpuA100x4' of delta allows 48:00:00",
        ),
        ("delta", None, "a", {"walltime": "48:00:00"}, "47:55:00 fits"),
        ("delta", "gpuA100x4-interactive", "a", {"nodes": 5}, "takes 4 nodes a job"),
        ("polaris", "debug", "a", {"nodes": 3}, "takes 2 nodes a job"),
        ("polaris", "prod-small", "a", {"nodes": 25}, "takes 24 nodes a job; the block asks for 25"),
        ("sophia", "by-gpu", "a", {"nodes": 2}, "takes 1 node a job"),
    ],
)
def test_limits_are_named_with_what_mends_them(site, partition, account, resources, message):
    found = load_site(site, account, partition)
    resources = Resources(**{"walltime": "00:30:00"} | resources)
    assert any(
        re.search(message, problem) for problem in problems(found, resources, plan_blocks(found, resources, 1))
    )


def test_file_systems_must_be_named_where_the_site_wants_it():
    site = load_site("polaris", account="p").model_copy(update={"options": []})
    resources = Resources(walltime="00:30:00")
    [problem] = problems(site, resources, plan_blocks(site, resources, 1))
    assert "its options hold no 'filesystems='" in problem


def test_task_larger_than_a_node_has_no_plan():
    with pytest.raises(InputError, match="takes 8 GPUs of a node and partition 'gpuA100x4' has 4"):
        plan_blocks(DELTA, Resources(ranks_per_node=8), 1)
    with pytest.raises(InputError, match="choose a partition with --partition; allowed: .*gpuA100x4"):
        plan_blocks(DELTA.model_copy(update={"partition": None}), Resources(), 1)


def test_machine_that_was_switched_off_says_so():
    site = load_site("thetagpu", account="p")
    assert "switched off: end of 2023" in notes(site, Resources(), plan_blocks(site, Resources(), 1))[0]
