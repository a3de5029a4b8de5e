"""Bonds and angles in groups, the distances of distributions, and the drift with its interval."""

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from hpc_kit.md.distributions import band, blocks_of, compare, h_error, jensen_shannon, values_of
from hpc_kit.md.drift import drift_of
from hpc_kit.md.molecules import find_molecule, groups_of, read_molecule, shipped
from hpc_kit.md.reference import read_reference
from hpc_kit.spec.errors import InputError

BOND = np.array([[0, 1]])


def test_groups_are_those_of_the_figure():
    groups = {
        name: {g: len(m) for g, m in groups_of(read_molecule(path)).items()} for name, path in shipped().items()
    }
    assert set(groups) == {"ethanol", "n-propanol", "iso-propanol", "uracil", "pyrimidine", "naphthalene"}
    assert groups["ethanol"]["C-C near O"] == 1 and groups["ethanol"]["C-C-O"] == 1
    assert (groups["n-propanol"]["C-C near O"], groups["n-propanol"]["C-C far"]) == (1, 1)
    assert groups["n-propanol"]["C-C-C"] == 1 and "C-C-C" not in groups["ethanol"]
    assert groups["iso-propanol"]["C-C near O"] == 2 and "C-C far" not in groups["iso-propanol"]
    assert groups["naphthalene"]["C-C"] == 11 and not any("near" in name for name in groups["naphthalene"])
    assert groups["uracil"]["C-N"] == 4 and groups["pyrimidine"]["C-N"] == 4


@pytest.mark.parametrize("name", ["ethanol", "uracil", "naphthalene"])
def test_atoms_of_a_reference_are_brought_into_order_by_their_bonds(name, tmp_path):
    start = read_molecule(find_molecule(name))
    mixed = np.random.default_rng(0).permutation(len(start))
    ase.io.write(tmp_path / "frames.xyz", [start[mixed]] * 3)
    found = read_reference(tmp_path / "frames.xyz", start, name)
    assert (mixed != np.arange(len(start))).any()
    for group, members in groups_of(start).items():
        expected = np.sort(values_of(start.positions[None], members))
        np.testing.assert_allclose(np.sort(values_of(found.pos, members))[0], expected[0], atol=1e-6, err_msg=group)
    with pytest.raises(InputError, match="is of another molecule"):
        read_reference(tmp_path / "frames.xyz", read_molecule(find_molecule("n-propanol")), "n-propanol")


def test_values_are_lengths_and_angles():
    water = molecule("H2O")
    pos = np.stack([water.positions, 2 * water.positions])
    assert values_of(pos, np.array([[0, 1]])).ravel() == pytest.approx(
        [water.get_distance(0, 1), 2 * water.get_distance(0, 1)]
    )
    assert values_of(pos, np.array([[1, 0, 2]])).ravel() == pytest.approx([water.get_angle(1, 0, 2)] * 2)


def test_a_shift_is_the_wasserstein_distance_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    replica = np.repeat(np.arange(4), 500)
    one, other = rng.normal(1.50, 0.03, (2000, 1)), rng.normal(1.52, 0.03, (2000, 1))
    found = compare(other, one, replica, replica, BOND)
    assert found["wasserstein"] == pytest.approx(0.02, abs=0.003)
    low, high = found["interval"]
    assert low < 0.02 < high and high - low < 0.01
    same = compare(one[:1000], one[1000:], replica[:1000], replica[1000:], BOND)
    assert same["wasserstein"] < 0.005 and same["jensen_shannon"] < 0.25 < found["jensen_shannon"]


def test_jensen_shannon_reaches_from_alike_to_apart():
    assert jensen_shannon(np.array([1.0, 2.0, 0.0]), np.array([2.0, 4.0, 0.0])) == pytest.approx(0.0, abs=1e-7)
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 3.0])) == pytest.approx(1.0)


def test_blocks_cover_every_frame_and_cross_no_replica():
    replica = np.array([0, 1] * 25)
    blocks = blocks_of(replica, 5)
    assert sorted(np.concatenate(blocks)) == list(range(50)) and len(blocks) == 10
    assert all(len(set(replica[block])) == 1 for block in blocks)


def test_a_band_holds_the_mean_between_its_replicas():
    rng = np.random.default_rng(0)
    values, replica = rng.normal(1.5, 0.03, (400, 2)), np.repeat([0, 1], 200)
    found = {name: np.array(column) for name, column in band(values, replica, BOND).items()}
    assert (found["low"] <= found["mean"] + 1e-4).all() and (found["mean"] <= found["high"] + 1e-4).all()
    assert found["mean"].sum() * 0.01 == pytest.approx(1.0, abs=1e-3)


def test_h_of_r_is_zero_for_itself_and_grows():
    pos = molecule("CH3CH2OH").positions[None] + np.random.default_rng(0).normal(0, 0.02, (50, 9, 3))
    assert h_error(pos, pos) == 0.0
    assert 0.5 < h_error(pos, 1.3 * pos) <= 2.0


@pytest.mark.parametrize("replicas", [1, 8])
def test_drift_is_found_within_its_interval(replicas):
    rng = np.random.default_rng(1)
    time = np.tile(np.linspace(0, 5, 500), replicas)
    total = -10.0 + 9 * (0.4 * time + rng.normal(0, 0.2, len(time))) / 1000
    found = drift_of(time, total, np.repeat(np.arange(replicas), 500), 9)
    low, high = found["interval"]
    assert low < 0.4 < high and high - low < 0.2
    assert found["scatter"] == pytest.approx(0.2, rel=0.1) and found["ps"] == pytest.approx(5.0)


def test_overlapping_atoms_and_unknown_names_are_refused(tmp_path):
    file = tmp_path / "x.xyz"
    file.write_text("3\n\nO 0 0 0\nH 0.3 0 0\nH 0 1 0\n")
    with pytest.raises(InputError, match=r"x.xyz: atoms O0 and H1 overlap: 0.3 Angstrom apart"):
        read_molecule(file)
    with pytest.raises(InputError, match="did you mean 'ethanol'"):
        find_molecule("etanol")
