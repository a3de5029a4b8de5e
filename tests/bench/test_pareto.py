"""Fronts by the stated rule: ties, dominance, what rounding leaves open, and how certain members are."""

import itertools

import numpy as np

from hpc_kit.bench import pareto
from hpc_kit.bench.measures import Measure
from hpc_kit.bench.published import discrepancy, published_studies, read_published
from hpc_kit.bench.studies import costs, label

TIME_AND_ERROR = (Measure("epoch_s", "time"), Measure("test_mae", "error"))
AXES = ("model.alignn_layers", "model.gcn_layers")


def published(name: str):
    studies = published_studies(read_published("alignn_ablation"), AXES, TIME_AND_ERROR)
    return next(study for study in studies if study.name == name)


def test_front_is_what_no_other_point_dominates():
    generator = np.random.default_rng(1)
    points = {n: tuple(map(float, values)) for n, values in enumerate(generator.integers(0, 12, size=(60, 2)))}
    beaten = {
        b
        for a, b in itertools.permutations(points, 2)
        if points[a][0] <= points[b][0] and points[a][1] <= points[b][1] and points[a] != points[b]
    }
    assert sorted(pareto.front(points)) == sorted(points.keys() - beaten)


def test_of_two_equal_in_one_measure_the_better_stays_and_equal_ones_stay_together():
    points = {"slow": (2.0, 1.0), "tied": (1.0, 3.0), "better": (1.0, 2.0), "twin": (1.0, 2.0)}
    assert pareto.front(points) == ["better", "twin", "slow"]
    assert pareto.dominators(points, "tied") == ["better", "twin"]


def test_unrounded_values_decide_where_rounded_ones_tie():
    exact = {"a": (0.2201, 1.97), "b": (0.2249, 1.52)}
    rounded = {name: (round(x, 2), y) for name, (x, y) in exact.items()}
    assert pareto.front(exact) == ["a", "b"]
    assert pareto.front(rounded) == ["b"]
    assert pareto.rounded_fronts(rounded, 0.005) == ({"b"}, {"a", "b"})


def test_printed_fronts_of_the_published_tables_differ_from_the_rule_and_rounding_explains_which_part():
    original, reproduction = published("original"), published("reproduction")
    names = [label(place) for place in pareto.front(costs(original))]
    assert names == ["(0,0)", "(0,2)", "(0,3)", "(0,4)", "(1,1)", "(1,3)", "(2,2)", "(3,2)"]
    said = discrepancy(original)
    assert [line.partition(" at")[0] for line in said] == ["(0,1)", "(1,2)", "(1,4)", "(0,0)", "(3,2)"]
    assert all("may put it in the front" in line for line in said[:3])
    assert all("nothing dominates it" in line for line in said[3:])
    said = discrepancy(reproduction)
    assert [line.partition(" at")[0] for line in said] == [
        "(1,4)", "(0,0)", "(2,4)", "(3,1)", "(3,2)", "(4,3)", "(4,4)",
    ]  # fmt: skip


def test_certainty_is_the_share_of_draws_in_the_front():
    generator = np.random.default_rng(2)
    sure = np.column_stack([np.full(5, 1.0), generator.normal(5.0, 0.01, 5)])
    close = [np.column_stack([np.full(400, 2.0), generator.normal(1.0, 0.1, 400)]) for _ in range(2)]
    never = np.column_stack([np.full(5, 3.0), generator.normal(9.0, 0.01, 5)])
    shares = pareto.certainty({"sure": sure, "one": close[0], "other": close[1], "never": never})
    assert (shares["sure"], shares["never"]) == (1.0, 0.0)
    # Equal in time, so one of the two is always out: which of them, by the difference of two means.
    assert abs(shares["one"] + shares["other"] - 1.0) < 1e-9
    gap = (close[1][:, 1].mean() - close[0][:, 1].mean()) / (0.1 * np.sqrt(2 / 400))
    from scipy.stats import norm

    assert abs(shares["one"] - norm.cdf(gap)) < 0.05


def test_of_a_single_run_nothing_is_said_and_others_are_held_against_it():
    shares = pareto.certainty({"single": np.array([[1.0, 1.0]]), "worse": np.array([[2.0, 2.0], [2.1, 2.2]])})
    assert shares == {"single": None, "worse": 0.0}
