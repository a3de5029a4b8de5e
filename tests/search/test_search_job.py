import pytest

from hpc_kit.plan import Task, make_plan
from hpc_kit.search.trials import trial_job, trial_task
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import load_job


def plan(*sets):
    return make_plan(load_job("search-sample", sets))


def refused(*sets):
    with pytest.raises(InputError) as error:
        plan(*sets)
    return str(error.value)


def test_the_shipped_search_is_one_wide_task():
    [task] = plan().tasks
    assert task.kind == "search" and task.work.amount() == (24, "trials")
    assert Task.model_validate(task.model_dump()).work.space() == task.work.space()


def test_strategies_and_seeds_are_searches():
    tasks = plan("grid={search.strategy: [bayes, random]}", "seeds=[0, 1, 2]").tasks
    assert len(tasks) == 6 and len({task.id for task in tasks}) == 6


def test_a_trial_is_a_training_named_by_its_content():
    [task] = plan().tasks
    values = {"train.learning_rate": 0.01, "train.optimizer": "sgd", "model.interactions": 3}
    trial = trial_task(task, values)
    assert (trial.kind, trial.cell, trial.work.train.optimizer) == ("train", values, "sgd")
    assert (trial.work.model.interactions, trial.work.model.hidden) == (3, 32)
    assert trial.id == trial_task(task, dict(reversed(values.items()))).id
    assert trial.id != trial_task(task, values | {"train.learning_rate": 0.02}).id
    assert Task.model_validate(trial.model_dump()) == trial
    assert trial_job(task).train == task.work.train


def test_a_trial_with_another_model_has_that_models_defaults():
    [task] = plan("search.space={model: [{name: schnet, hidden: [8, 16]}, {name: physnet}]}").tasks
    trial = trial_task(task, {"model": {"name": "schnet"}, "model.hidden": 16})
    assert (trial.work.model.name, trial.work.model.hidden, trial.work.model.interactions) == ("schnet", 16, 6)


SPACE = "search.space={%s}"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["search.space={}"], "search.space: must not be empty"),
        ([SPACE % "train.learning_rate: {low: 2.0, high: 1.0}"], "search.space.train.learning_rate: is inverted"),
        ([SPACE % "train.learning_rat: [0.1, 0.2]"], "unknown key; did you mean 'learning_rate'"),
        ([SPACE % "train.optimizer: [adam, adagrad]"], "train.optimizer=adagrad cannot be"),
        ([SPACE % "train.learning_rate: {low: -0.1, high: 1.0}"], "train.learning_rate=-0.1 cannot be"),
        ([SPACE % "model.hidden: {low: 0, high: 8}"], "model.hidden=0 cannot be"),
        ([SPACE % "model.heads: [1, 2]"], "model.heads=1 cannot be"),
        ([SPACE % "data.graph.cutoff: [0.0, 5.0]"], "data.graph.cutoff=0.0 cannot be"),
        ([SPACE % "resources.nodes: [1, 2]"], "cannot be searched"),
        (["search.trials=5", "search.initial=8"], "must be more than initial"),
        (["resources.ranks_per_node=1", "search.rank_0_trains=false"], "a search takes two ranks or more"),
        (["search.ranks_per_trial=4"], "does not divide the 2 ranks"),
        (["search.surrogate=GP"], "take UCB, EI or PI"),
        (["search.pruning={warmup: 2}"], "search.pruning.warmup: is 2, and no trial has more than 2 epochs"),
        (["search.points=[{train.clip: 1.0}]"], "search.points.0: lacks"),
        (["search.points=[{train.clp: 1.0}]"], "is not searched here"),
        (["search.strategy=grid"], "'grid' is not allowed"),
        (["search.objectives=[epoch_s]"], "objectives must be"),
    ],
)
def test_wrong_input_is_told_before_anything_runs(sets, words):
    assert words in refused(*sets)


def test_rank_0_may_train():
    [task] = plan("resources.ranks_per_node=1", "search.rank_0_trains=true").tasks
    assert task.resources.ranks_per_node == 1


def test_a_point_is_taken_where_it_fits():
    point = "{train.learning_rate: 0.001, train.batch_size: 32, train.optimizer: adam, train.clip: 1.0,"
    point += " model.interactions: 2}"
    [task] = plan(f"search.points=[{point}]").tasks
    assert task.work.search.points[0]["train.batch_size"] == 32
    assert "outside of 8 to 128" in refused(f"search.points=[{point.replace('32', '7')}]")


def test_a_space_smaller_than_the_budget_is_told():
    small = "train.optimizer: [adam, sgd], model.interactions: {low: 1, high: 3}"
    assert "no more than 6 different points" in plan(SPACE % small).notes[0]
    assert plan().notes == []


def test_a_point_named_twice_is_refused():
    point = "{train.learning_rate: 0.001, train.batch_size: 32, train.optimizer: adam, train.clip: 1.0,"
    point += " model.interactions: 2}"
    assert "search.points.1: is there twice" in refused(f"search.points=[{point}, {point}]")
