"""What a benchmark job says, and what it becomes: a training's work with bounds on its epochs."""

import pytest

from hpc_kit.plan import make_plan
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import load_job


def work(*overrides):
    return make_plan(load_job("benchmark-sample", ["seeds=[0]", *overrides])).tasks[0].work


def test_the_epochs_are_the_warm_up_and_the_most_that_are_timed():
    assert work("benchmark={warmup_epochs: 3, max_epochs: 20}").train.epochs == 23


def test_the_seeds_of_a_benchmark_are_replicates_of_one_setting():
    plan = make_plan(load_job("benchmark-sample", ["seeds=[0, 1]"]))
    assert {task.setting for task in plan.tasks} == {""}
    assert len({task.id for task in plan.tasks}) == 2


def test_a_benchmark_has_its_nodes_to_itself_unless_it_says_otherwise():
    assert load_job("benchmark-sample").job.resources.exclusive
    assert not load_job("benchmark-sample", ["resources.exclusive=false"]).job.resources.exclusive


def test_weak_scaling_keeps_the_batch_of_a_rank():
    plan = make_plan(
        load_job("benchmark-sample", ["seeds=[0]", "grid={resources.nodes: [1, 4]}", "benchmark.weak=true"])
    )
    assert [task.work.train.batch_size for task in plan.tasks] == [32, 128]


def test_without_a_budget_four_fifths_of_the_walltime_are_one():
    task = make_plan(load_job("benchmark-sample", ["benchmark.budget=null", "resources.walltime=01:00:00"])).tasks[0]
    assert task.work.budget_s(task.resources) == 2880


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.min_epochs=2", "benchmark.min_epochs: must be at least 3"),
        ("benchmark.max_epochs=5", r"benchmark: max_epochs \(5\) must not be below min_epochs \(10\)"),
        ("benchmark.width=0", "benchmark.width: must be"),
        ("benchmark.cache=hot", "benchmark.cache: 'hot' is not allowed"),
        ("benchmark.budget=00:20:00", "benchmark.budget 00:20:00 is more than resources.walltime 00:10:00"),
        ("train.epochs=5", "train.epochs has no effect in a benchmark: benchmark.max_epochs says how many"),
        ("train.early_stopping={patience: 3}", "train.early_stopping has no effect in a benchmark"),
        ("data.target=zpv", "data.target"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(override, message):
    with pytest.raises(InputError, match=message):
        work(override)
