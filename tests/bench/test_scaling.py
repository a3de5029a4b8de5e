"""Jobs whose grid varies resources: each size is a task of its own, run in blocks of its own, and held against the
smallest."""

import json

import pytest
from conftest import PROBE, hpc_kit, set_options
from on_schedulers import SiteRun

from hpc_kit.plan import make_plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.submit import prepare

QUICK = [*PROBE, "probe={steps: 2, step_s: 0.1}"]


def test_each_size_is_a_task_with_an_id_of_its_own():
    plan = make_plan(load_job("quickstart", ["grid={resources.ranks_per_node: [2, 1]}", "seeds=[0, 1]"]))
    plain = make_plan(load_job("quickstart", ["seeds=[0, 1]"]))
    ids = {task.id for task in plan.tasks} | {task.id for task in plain.tasks}
    assert len(ids) == 6
    assert [task.label for task in plan.tasks][0] == "resources.ranks_per_node=2 seed=0"
    parts = plan.by_resources()
    assert [[task.resources.ranks_per_node for task in part.tasks] for part in parts] == [[1, 1], [2, 2]]


def test_blocks_are_planned_for_each_size_and_the_largest_is_held_against_the_limits():
    sizes = "{nodes: 1}, {nodes: 2}, {nodes: 4, walltime: '72:00:00'}"
    plan = make_plan(load_job("quickstart", [f"grid={{resources: [{sizes}]}}", "seeds=[0]"]))
    delta = load_site("delta", account="abcd-delta-gpu")
    blocks, problems = prepare(delta, plan)
    assert [block.nodes for block in blocks] == [1, 2, 4]
    assert len(problems) == 1 and "resources.walltime is 72:00:00" in problems[0]


def test_a_task_that_is_exclusive_pays_for_whole_nodes():
    job = load_job("quickstart", ["resources.exclusive=true", "resources.gpus_per_rank=1", "seeds=[0, 1]"])
    delta = load_site("delta", account="abcd-delta-gpu")
    [block], _ = prepare(delta, make_plan(job))
    assert (block.slots, block.whole_nodes, block.gpus, block.cores) == (1, True, 4, 64)


def test_two_sizes_of_one_job_run_on_this_machine(tmp_path):
    options = [*QUICK, "resources.cpus_per_rank=1", "grid={resources.ranks_per_node: [2, 1]}"]
    done = hpc_kit(
        "submit", "--site", "local", "probe", *set_options(options), "--run", tmp_path / "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunDir(tmp_path / "run")
    found = {task.resources.ranks_per_node: run.task(task.id).metrics for task in run.read_plan().tasks}
    assert {size: json.loads(path.read_text())["ranks"] for size, path in found.items()} == {1: 1, 2: 2}


@pytest.mark.usefixtures("slurm")
def test_one_node_and_two_are_blocks_of_one_run_on_slurm(tmp_path):
    run = SiteRun(tmp_path).probe(*QUICK, "grid={resources.nodes: [2, 1]}", "resources.walltime=00:02:00")
    run.end()
    run.done_once()
    hosts = [block["evidence"].split()[-1] for block in run.blocks() if block.get("evidence")]
    assert len(hosts) == 2 and "[" not in hosts[0] and "[" in hosts[1], hosts
