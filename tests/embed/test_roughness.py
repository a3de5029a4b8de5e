"""Roughness: the published check values, what the index must do, and what it refuses."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from hpc_kit.embed.roughness import distances, indices, rank_correlation, roughness
from hpc_kit.spec.errors import InputError


def test_indices_are_those_of_the_published_code():
    """ROGI: the test of github.com/coleygroup/rogi; ROGI-XD: that of rogi_xd's formula on the same numbers."""
    found = indices(np.arange(1, 11) / 10, np.arange(5.0))
    assert found == pytest.approx((0.1530913965143058, 0.2418699786277701), abs=1e-15)


def test_rough_property_is_rougher_than_a_smooth_one_and_no_unit_matters():
    features = np.random.default_rng(0).normal(size=(400, 3))
    smooth = roughness(features, features[:, 0], size=200, subsets=3)
    rough = roughness(features, np.sin(9 * features[:, 0]), size=200, subsets=3)
    assert smooth.rogi < rough.rogi < rough.rogi_permuted * 1.1 and smooth.rogi_xd < rough.rogi_xd
    assert smooth.rogi < 0.7 * smooth.rogi_permuted and (smooth.size, smooth.subsets) == (200, 3)
    assert smooth.rogi_sd > 0 and smooth.rogi_whole < smooth.rogi  # an index falls with the number of structures
    other = roughness(features * 100, features[:, 0] * 27.2 + 3, size=200, subsets=3)
    assert other.rogi == pytest.approx(smooth.rogi, rel=1e-9)


def test_distances_end_at_one():
    features = np.random.default_rng(1).normal(size=(30, 4))
    corners = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    assert distances(corners, "euclidean")[0] == pytest.approx(1.0)
    assert distances(corners, "cityblock")[0] == pytest.approx(1.0)
    np.testing.assert_allclose(distances(features, "cosine"), pdist(features, "cosine") / 2)
    bits = (features > 0.3).astype(np.uint8)
    np.testing.assert_allclose(distances(bits, "tanimoto"), pdist(bits.astype(bool), "jaccard"), atol=1e-6)


def test_duplicates_are_borne_and_identical_features_refused():
    features = np.repeat(np.random.default_rng(2).normal(size=(20, 3)), 2, axis=0)
    values = np.arange(40.0)
    assert 0 < indices(distances(features, "euclidean"), values)[0] < 1
    with pytest.raises(InputError, match="all 20 structures have the same features"):
        roughness(np.ones((40, 3)), values, subsets=1)
    with pytest.raises(InputError, match="same value for all"):
        roughness(features, np.ones(40))
    with pytest.raises(InputError, match="needs 5 structures or more, and there are 4"):
        roughness(features[:4], values[:4])
    with pytest.raises(InputError, match="distance 'manhattan'"):
        distances(features, "manhattan")


def test_rank_correlation_says_what_few_models_can_show():
    four = rank_correlation([1, 2, 3, 4], [10, 20, 30, 40])
    assert four["spearman"] == pytest.approx(1.0) and four["p"] == four["least_p"] == pytest.approx(2 / 24)
    assert four["low"] is None
    eight = rank_correlation([1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 6, 5, 8, 7])
    assert eight["p"] < 0.01 and 0 < eight["low"] < eight["spearman"] < eight["high"] < 1
    assert rank_correlation([1, 1, 1], [1, 2, 3])["spearman"] is None
