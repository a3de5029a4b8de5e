import math
import statistics

import pytest

from hpc_kit.plan import make_plan
from hpc_kit.search.optimizer import Optimizer
from hpc_kit.spec.job import load_job

SPACE = (
    "search.space={train.learning_rate: {low: 1.0e-4, high: 1.0, log: true}, train.batch_size: {low: 8, high: 128},"
)
SPACE += " train.optimizer: [adam, sgd], train.momentum: {low: 0.0, high: 0.9, when: {train.optimizer: sgd}}}"


def opened(*sets, seed=0):
    [task] = make_plan(load_job("search-sample", [SPACE, "search.initial=8", *sets])).tasks
    return Optimizer(task.work.search, task.work, seed)


def error(values):
    """A bowl: least at a rate of 0.01 and batches of 40, with adam."""
    rate, batch = math.log10(values.get("train.learning_rate", 0.01)) + 2, (values["train.batch_size"] - 40) / 60
    return rate**2 + batch**2 + (values["train.optimizer"] == "sgd")


def search(optimizer, count, fails=lambda values: False):
    found = []
    for _ in range(count):
        values, by = optimizer.ask()
        scores = None if fails(values) else {"error": error(values), "epoch_s": 1.0}
        optimizer.tell(values, scores)
        found.append((values, scores, by))
    return found


def test_values_are_of_the_space_and_a_key_is_absent_where_its_condition_is_false():
    found = [values for values, _, _ in search(opened(), 16)]
    assert {values["train.optimizer"] for values in found} == {"adam", "sgd"}
    for values in found:
        assert ("train.momentum" in values) == (values["train.optimizer"] == "sgd")
        assert isinstance(values["train.batch_size"], int) and 8 <= values["train.batch_size"] <= 128
        assert 1e-4 <= values["train.learning_rate"] <= 1.0


def test_first_the_points_then_random_ones_then_the_surrogates():
    point = {"train.learning_rate": 0.001, "train.batch_size": 32, "train.optimizer": "adam"}
    text = "search.points=[{train.learning_rate: 0.001, train.batch_size: 32, train.optimizer: adam}]"
    found = search(opened(text), 12)
    assert found[0][0] == point
    assert [by for _, _, by in found] == ["given", *["random"] * 7, *["bayes"] * 4]


def test_bayesian_search_finds_the_bottom_of_a_bowl_sooner_than_chance():
    def best(strategy):
        sets = f"search.strategy={strategy}"
        return [min(s["error"] for _, s, _ in search(opened(sets, seed=seed), 25)) for seed in range(5)]

    assert statistics.median(best("bayes")) < 0.5 * statistics.median(best("random"))


@pytest.mark.parametrize("surrogate", ["RF", "TB", "RS", "GP"])
def test_every_surrogate_proposes(surrogate):
    found = search(opened(f"search.surrogate={surrogate}", "search.acquisition=UCB", "search.initial=4"), 7)
    assert [by for _, _, by in found[4:]] == ["bayes"] * 3


def test_a_search_that_goes_on_repeats_nothing_and_knows_what_it_was_told():
    first = search(opened(), 12)
    resumed = opened()
    for values, scores, _ in first:
        resumed.tell(values, scores)
    after = search(resumed, 8)
    before = [values for values, _, _ in first]
    assert all(values not in before for values, _, _ in after)
    assert {by for _, _, by in after} == {"bayes"}


def test_several_asked_for_at_once_differ():
    optimizer = opened()
    search(optimizer, 10)
    asked = [optimizer.ask()[0] for _ in range(4)]
    assert all(asked.count(values) == 1 for values in asked)


def test_failures_are_avoided_and_never_end_the_search():
    """What fails is half of the space; the surrogate learns to leave it alone."""
    found = search(opened(), 32, fails=lambda values: values["train.optimizer"] == "sgd")
    late = [scores is None for _, scores, by in found[16:]]
    assert sum(late) / len(late) < 0.35
    assert len(search(opened(), 6, fails=lambda values: True)) == 6


def test_two_objectives():
    optimizer = opened("search.objectives=[error, epoch_s]")
    found = search(optimizer, 12)
    assert [by for _, _, by in found[8:]] == ["bayes"] * 4


def test_values_that_wait_from_an_earlier_attempt_are_not_asked_for_again():
    text = "search.points=[{train.learning_rate: 0.001, train.batch_size: 32, train.optimizer: adam}]"
    first = opened(text)
    waiting = [first.ask()[0] for _ in range(5)]
    for _ in range(2):  # the second time, too, nothing has come to its end
        resumed = opened(text)
        for values in waiting:
            resumed.remember(values)
        asked = [resumed.ask() for _ in range(5)]
        assert all(values not in waiting and by == "random" for values, by in asked)
        waiting += [values for values, _ in asked]


def test_a_small_space_is_tried_whole_before_anything_is_tried_twice():
    whole = "search.space={train.batch_size: {low: 8, high: 12}, train.optimizer: [adam, sgd]}"
    found = [values for values, _, _ in search(opened(whole, "search.initial=4", "search.trials=10"), 10)]
    assert len({tuple(values.items()) for values in found}) == 10


@pytest.mark.parametrize("objectives", ["[error]", "[error, epoch_s]"])
def test_failures_are_known_after_a_restart(objectives):
    """Half of the space failed before; a search that was told so proposes the other half."""
    text = f"search.objectives={objectives}"
    before = search(opened(text), 24, fails=lambda values: values["train.optimizer"] == "sgd")
    resumed = opened(text)
    for values, scores, _ in before:
        resumed.tell(values, scores)
    after = search(resumed, 8, fails=lambda values: values["train.optimizer"] == "sgd")
    assert {by for _, _, by in after} == {"bayes"}
    assert sum(scores is None for _, scores, _ in after) <= 2
