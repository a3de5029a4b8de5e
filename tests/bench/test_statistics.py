"""Intervals of ratios of timings hold what they say, for few runs and many; and what cannot be said is not said."""

import numpy as np
import pytest

from hpc_kit.bench.statistics import (
    BOOTSTRAP,
    NONE,
    STUDENT,
    WITHIN,
    Side,
    contrast,
    median_factor,
    ratio,
    slower_by,
)

BETWEEN, INSIDE, CORRELATION = 0.03, 0.03, 0.5  # deviations of logs; between neighbouring epochs


def side(random: np.random.Generator, runs: int, median: float = 1.0, skewed: bool = False) -> Side:
    """Return runs of 15 epochs whose logs differ between runs and, with memory, between epochs."""
    noise = (lambda size: random.exponential(1, size) - 1) if skewed else (lambda size: random.normal(0, 1, size))
    shares = noise((runs, 15))
    for epoch in range(1, 15):
        shares[:, epoch] = CORRELATION * shares[:, epoch - 1] + np.sqrt(1 - CORRELATION**2) * shares[:, epoch]
    return Side(list(median * np.exp(BETWEEN * noise((runs, 1)) + INSIDE * shares)))


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(
    ("runs", "others", "method"), [(2, 2, STUDENT), (3, 3, STUDENT), (3, 6, STUDENT), (5, 5, BOOTSTRAP)]
)
def test_interval_holds_the_true_ratio_in_95_of_100_comparisons(runs, others, method, skewed):
    random, held, count = np.random.default_rng(7), 0, 1000 if method == STUDENT else 300
    for _ in range(count):
        found = ratio(side(random, runs, 1.2, skewed), side(random, others, 1.0, skewed))
        held += found.low <= 1.2 <= found.high
        assert found.method == method
    error = np.sqrt(0.95 * 0.05 / count)
    assert held / count > 0.95 - 2 * error


def test_a_ratio_of_the_detectable_size_is_found_in_80_of_100_comparisons():
    random = np.random.default_rng(3)
    typical = np.median([slower_by(side(random, 8), side(random, 8), 0.025).detectable for _ in range(200)])
    found = [slower_by(side(random, 8, typical), side(random, 8), 0.025).low > 1 for _ in range(500)]
    assert np.mean(found) == pytest.approx(0.80, abs=0.08)


def test_ratios_within_runs_take_a_common_factor_off():
    random = np.random.default_rng(5)
    a, base_a = side(random, 4), side(random, 4)
    b, base_b = side(random, 4, 1.7), side(random, 4, 1.7)
    found = contrast([b, base_a], [a, base_b])
    assert ratio(b, a).low > 1.4
    assert found.low < 1 < found.high and found.ratio == pytest.approx(1, abs=0.15)


def test_one_run_a_side_says_nothing_of_other_runs():
    one, other = Side([[1.0, 1.1, 1.2, 1.3]]), Side([[2.0, 2.2, 2.4, 2.6]])
    found = ratio(other, one)
    assert found.ratio == pytest.approx(2.0) and found.method == WITHIN
    assert found.low < 2 < found.high
    assert (found.holds_one, found.detectable, found.is_of_runs) == (None, None, False)
    assert ratio(Side([[2.0]]), Side([[1.0]])).method == NONE


def test_the_same_numbers_give_the_same_interval():
    a, b = ([Side(side(np.random.default_rng(seed), 6).runs) for seed in (1, 2)] for _ in range(2))
    assert ratio(*a) == ratio(*b)


def test_equal_sides_are_drawn_apart():
    runs = side(np.random.default_rng(1), 6).runs
    found = ratio(Side(runs), Side(runs))
    assert found.ratio == 1.0 and found.low < 0.99 and found.high > 1.01


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 30, 31])
def test_median_factor_is_that_of_normal_values(n):
    values = np.random.default_rng(n).normal(size=(60_000, n))
    assert median_factor(n) == pytest.approx(np.var(np.median(values, axis=1)) * n, rel=0.03)
