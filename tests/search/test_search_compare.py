"""Whether strategies differ by more than chance: the rank test against scipy, false alarms counted, words."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, permutation_test

from hpc_kit.search import chance


def test_the_rank_test_is_scipys_exact_one_without_ties():
    random = np.random.default_rng(1)
    for n, m in ((3, 3), (5, 5), (4, 9), (20, 20)):
        a, b = random.normal(size=n).tolist(), random.normal(0.7, size=m).tolist()
        assert chance.compare(a, b).p == pytest.approx(mannwhitneyu(a, b, method="exact").pvalue, rel=1e-12)


def test_with_ties_and_with_searches_that_found_nothing_it_counts_out_all_ways():
    a, b = [1.0, 1.0, 2.0, 3.0], [1.0, 3.0, 4.0, math.inf, math.inf]

    def distance(x, y, axis):
        ranks = {1.0: 2.0, 2.0: 4.0, 3.0: 5.5, 4.0: 7.0, 99.0: 8.5}
        total = np.apply_along_axis(lambda row: sum(ranks[v] for v in row), axis, x)
        return np.abs(total - 4 * 5.0)

    finite = [99.0 if value == math.inf else value for value in b]
    counted = permutation_test((a, finite), distance, n_resamples=np.inf, alternative="greater", vectorized=True)
    assert chance.compare(a, b).p == pytest.approx(counted.pvalue, rel=1e-12)


def test_many_numbers_are_compared_by_the_normal_distribution():
    random = np.random.default_rng(2)
    a, b = random.normal(size=40).round(1).tolist(), random.normal(0.5, size=35).round(1).tolist()
    assert chance.compare(a, b).p == pytest.approx(mannwhitneyu(a, b, method="asymptotic").pvalue, rel=1e-9)


def test_alike_strategies_are_said_to_differ_no_more_often_than_stated():
    random = np.random.default_rng(3)
    pairs = [chance.compare(*random.normal(size=(2, 5)).tolist()) for _ in range(2000)]
    alarms = sum("by more than chance" in chance.sentence(found, "bayes", "random") for found in pairs)
    assert 0.01 < alarms / 2000 <= chance.LEVEL  # 5 against 5: the level that ranks can give is 0.032


def test_a_difference_of_the_size_named_is_found_as_often_as_named():
    shift = chance.detectable_shift(5, 5)
    random = np.random.default_rng(4)
    found = [
        chance.compare(random.normal(size=5).tolist(), random.normal(shift, size=5).tolist()).p <= chance.LEVEL
        for _ in range(1000)
    ]
    assert np.mean(found) == pytest.approx(chance.POWER, abs=0.04)


def test_three_against_three_can_never_tell_and_says_so():
    found = chance.compare([1, 2, 3], [7, 8, 9])
    assert found.least_p == pytest.approx(0.1) and found.detectable is None and chance.power(3, 3, 100.0) == 0.0
    assert "cannot be told apart" in chance.sentence(found, "bayes", "random")


def test_the_better_one_is_named():
    said = chance.sentence(chance.compare([6, 7, 8, 9, 10], [1, 2, 3, 4, 5]), "bayes", "random")
    assert said.startswith("random is better than bayes by more than chance (p = 0.0079")


def test_several_comparisons_share_one_level():
    assert chance.adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
