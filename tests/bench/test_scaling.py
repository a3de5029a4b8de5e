"""Jobs whose grid varies resources: each size is a task of its own, run in blocks of its own, and held against the
smallest."""

import json

import pytest
from conftest import PROBE, hpc_kit, set_options
from on_schedulers import SiteRun

from hpc_kit.bench.scaling import scaling
from hpc_kit.bench.statistics import Side, ratio
from hpc_kit.plan import make_plan
from hpc_kit.report.page import page
from hpc_kit.report.summary import summarize
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.submit import prepare

SMALL = [
    "data.split={train: 0.02, val: 0.01, test: 0.01, seed: 0}",
    "model={name: schnet, hidden: 16, filters: 16, interactions: 2, gaussians: 10}",
    "benchmark={warmup_epochs: 1, min_epochs: 3, max_epochs: 3}",
    "seeds=[0]",
]
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
    options = [*SMALL, "grid={resources.nodes: [2, 1]}", "resources.walltime=00:02:00", "benchmark.budget=null"]
    run = SiteRun(tmp_path)
    run._submit("scaling-sample", options, None)
    run.end()
    run.done_once()
    hosts = [block["evidence"].split()[-1] for block in run.blocks() if block.get("evidence")]
    assert len(hosts) == 2 and "[" not in hosts[0] and "[" in hosts[1], hosts
    [series] = summarize(RunDir(run.path))["scaling"]
    one, two = series["points"]
    assert one["cost"] / one["epoch_s"] == pytest.approx(two["cost"] / two["epoch_s"] / 2)  # whole nodes, by the hour
    assert one["used"] > 0.0 and two["communication"] > 0.0


def rows(seconds: dict[int, float], seeds: int = 1) -> tuple[list, list, list]:
    """Return tasks over `seconds`' numbers of nodes, what a summary would say of each, and its epochs: those of a
    further seed take 10 % longer."""
    job = load_job("scaling-sample", [f"grid={{resources.nodes: {list(seconds)}}}", f"seeds={list(range(seeds))}"])
    tasks = make_plan(job).tasks
    walls = [seconds[task.resources.nodes] * 1.1**task.seed for task in tasks]
    found = [
        {
            "state": "done",
            "median_epoch_s": wall,
            "phases": {"all_reduce_s": 0.5 if task.resources.nodes > 1 else None},
            "unfit": [],
        }
        for task, wall in zip(tasks, walls, strict=True)
    ]
    return tasks, found, [[wall] * 8 for wall in walls]


def test_speedup_and_efficiency_are_those_over_the_smallest_size():
    [series] = scaling(*rows({1: 8.0, 2: 4.0, 4: 2.5}), lambda resources: 10.0 * resources.nodes)
    last = series.points[-1]
    assert series.unit == "nodes" and [point.size for point in series.points] == [1, 2, 4]
    assert (last.speedup, last.efficiency, last.communication) == pytest.approx((3.2, 0.8, 0.2))
    assert last.cost == pytest.approx(40.0 * 2.5 / 3600)


def test_the_interval_of_a_speedup_is_that_of_a_comparison_over_runs():
    [series] = scaling(*rows({1: 8.0, 2: 4.0}, seeds=3), lambda resources: None)
    effect = ratio(Side([[8.0], [8.8], [9.68]]), Side([[4.0], [4.4], [4.84]]))
    assert series.points[1].speedup_interval == pytest.approx([effect.low, effect.high])
    assert series.points[1].efficiency_interval == pytest.approx([effect.low / 2, effect.high / 2])
    assert series.points[0].interval[0] < 8.0 and series.points[0].interval[1] > 9.68


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({1: 8.0, 2: 4.0, 4: 2.0}, "adding nodes pays up to 4 nodes, the largest size measured"),
        (
            {1: 8.0, 2: 4.2, 4: 3.9},
            "adding nodes pays up to 2 nodes: from 2 nodes to 4 the marginal efficiency is 8%",
        ),
        ({1: 8.0, 2: 7.0}, "adding nodes does not pay: from 1 node to 2 the marginal efficiency is 14%"),
        ({2: 7.0}, ""),
    ],
)
def test_the_verdict_says_where_adding_nodes_stops_paying(seconds, said):
    series = scaling(*rows(seconds), lambda resources: None)
    assert (series[0].verdict if series else "").startswith(said) and bool(series) == bool(said)


def test_a_size_that_failed_is_missing_with_its_reason():
    tasks, found, epochs = rows({1: 8.0, 2: 4.0})
    found[1] = {"state": "failed", "why": "out of disk"}
    [series] = scaling(tasks, found, epochs, lambda resources: None)
    assert [point.size for point in series.points] == [1]
    assert series.missing == ["resources.nodes=2 seed=0: failed: out of disk"]
    assert series.verdict == "one size alone was measured, 1 node: nothing to compare"


def test_one_and_two_ranks_are_timed_reported_and_drawn(tmp_path):
    done = hpc_kit("run", "scaling-sample", *set_options(SMALL), "--run", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "strong scaling (whole batch fixed); base case: nodes x ranks x cores 1 x 1 x 1" in done.stdout
    [series] = summarize(RunDir(tmp_path / "run"))["scaling"]
    assert [point["label"] for point in series["points"]] == ["1 x 1 x 1", "1 x 2 x 1"]
    assert 0.0 < series["points"][1]["communication"] < 1.0
    html = page(RunDir(tmp_path / "run"))
    assert "speed-up over ranks" in html and "adding ranks" in html and "phases of an epoch" in html
