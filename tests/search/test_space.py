import pytest

from hpc_kit.search.space import SpaceError, read_space

BASE = {"train": {"optimizer": "adam"}, "model": {"name": "schnet", "hidden": 64}, "data": {}}


def space(**written):
    return read_space({key.replace("__", "."): value for key, value in written.items()}, BASE)


def only(value):
    [parameter] = space(train__learning_rate=value).parameters
    return parameter.domain


@pytest.mark.parametrize(
    "written",
    [
        {"low": 1, "high": 20},
        {"low": 1, "high": 20, "log": True},
        {"low": 1e-5, "high": 2.0, "log": True},
        {"low": -1.0, "high": 3.0, "prior": "normal", "mean": 0.0, "std": 0.5},
        {"low": 1e-3, "high": 1.0, "prior": "log_normal", "mean": 1e-2, "std": 1.0},
    ],
)
def test_places_and_values_are_each_others_inverse_and_reach_the_bounds(written):
    domain = only(written)
    assert [domain.value(0.0), domain.value(1.0)] == pytest.approx([written["low"], written["high"]])
    for place in (0.1, 0.35, 0.5, 0.9):
        value = domain.value(place)
        assert written["low"] <= value <= written["high"]
        assert domain.value(domain.place(value)) == pytest.approx(value)
        assert isinstance(value, int) == (isinstance(written["low"], int))


def test_whole_numbers_have_equal_room():
    domain = only({"low": 1, "high": 4})
    found = [domain.value((place + 0.5) / 1000) for place in range(1000)]
    assert [found.count(number) for number in (1, 2, 3, 4)] == [250] * 4


def test_a_log_scale_has_its_middle_at_the_geometric_mean():
    assert only({"low": 1e-4, "high": 1.0, "log": True}).value(0.5) == pytest.approx(1e-2)


def test_a_normal_prior_has_its_quantiles():
    domain = only({"low": -10.0, "high": 10.0, "prior": "normal", "mean": 1.0, "std": 2.0})
    assert [domain.value(0.5), domain.value(0.8413447)] == pytest.approx([1.0, 3.0], abs=1e-4)


@pytest.mark.parametrize(
    ("value", "key", "words"),
    [
        ({"low": 1.0, "high": 1.0}, (), "empty"),
        ({"low": 2.0, "high": 1.0}, (), "inverted"),
        ({"low": 0.0, "high": 1.0, "log": True}, ("low",), "greater than 0 on a log scale"),
        ({"low": 0.1}, (), "lacks high"),
        ({"low": "a", "high": 1.0}, ("low",), "finite number"),
        ({"low": 0.1, "high": 1.0, "lo": 3}, ("lo",), "unknown key"),
        ({"low": 0.1, "high": 1.0, "std": 3}, ("std",), "belongs to prior normal"),
        ([], (), "at least one"),
        ([1, 1], (), "twice"),
        (3, (), "a list of values or a range"),
        ({"choices": [1, 2], "when": {"train.optimiser": ["sgd"]}}, ("when", "train.optimiser"), "neither searched"),
        ({"choices": [1, 2], "when": {}}, ("when",), "must name one key"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(value, key, words):
    with pytest.raises(SpaceError, match=words) as error:
        space(train__learning_rate=value)
    assert error.value.key == ("train.learning_rate", *key)


def test_only_keys_of_a_training_are_searched():
    with pytest.raises(SpaceError, match="cannot be searched"):
        space(resources__nodes=[1, 2])


def test_a_condition_decides_whether_a_key_applies():
    found = space(
        train__optimizer=["adam", "sgd"],
        train__momentum={"low": 0.0, "high": 0.9, "when": {"train.optimizer": "sgd"}},
    )
    chosen = {"train.optimizer": "adam", "train.momentum": 0.5}
    assert found.complete(chosen) == {"train.optimizer": "adam"}
    assert found.complete(chosen | {"train.optimizer": "sgd"}) == {"train.optimizer": "sgd", "train.momentum": 0.5}
    assert found.names({"train.optimizer": "adam"})["train.momentum"] == pytest.approx(0.45)


def test_a_condition_on_what_is_fixed_and_one_on_what_comes_later():
    value = {"low": 0.0, "high": 0.9, "when": {"train.optimizer": "sgd"}}
    assert space(train__momentum=value).complete({"train.momentum": 0.5}) == {}
    with pytest.raises(SpaceError, match="must stand before it"):
        space(train__momentum=value, train__optimizer=["adam", "sgd"])


MODELS = [{"name": "schnet", "hidden": {"low": 16, "high": 64}}, {"name": "physnet", "hidden": [8, 9]}]


def test_models_have_their_own_keys():
    found = space(model=MODELS)
    chosen = {"model": {"name": "physnet"}, "model[0].hidden": 32, "model[1].hidden": 9}
    values = found.complete(chosen)
    assert values == {"model": {"name": "physnet"}, "model.hidden": 9}
    assert found.names(values)["model[1].hidden"] == 9
    assert found.why_outside(values) == ((), "")
    assert "not one of 8, 9" in found.why_outside(values | {"model.hidden": 32})[1]
    assert {(one.name, value) for one, value, _ in found.corners() if one.name != "model"} == {
        ("model[0].hidden", 16), ("model[0].hidden", 64), ("model[1].hidden", 8), ("model[1].hidden", 9)
    }  # fmt: skip
    for one, value, values in found.corners():
        assert values[one.key] == value


def test_two_models_that_cannot_be_told_apart():
    with pytest.raises(SpaceError, match="there twice"):
        space(model=[{"name": "schnet", "hidden": [1, 2]}, {"name": "schnet", "hidden": [3]}])
    with pytest.raises(SpaceError, match="beside model as a whole"):
        space(model=MODELS, model__interactions=[1, 2])
