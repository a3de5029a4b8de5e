"""The table of element features, CGCNN's own format, and what happens to malformed files."""

import json

import numpy as np
import pytest

from hpc_kit.data.features import check_elements, element_table
from hpc_kit.spec.errors import InputError

# Where each property's bins begin in CGCNN's vector.
STARTS = [0, 19, 26, 36, 46, 58, 68, 78, 82, 92]


def test_table_has_a_row_for_every_atomic_number():
    table = element_table()
    assert table.shape == (119, 92)
    assert table.dtype == np.float32


def test_hydrogen_to_fermium_are_described():
    assert np.flatnonzero(~np.isnan(element_table()).any(axis=1)).tolist() == list(range(1, 101))


def test_each_property_sets_one_bin_at_most():
    table = element_table()[1:101]
    counts = np.stack([table[:, a:b].sum(axis=1) for a, b in zip(STARTS[:-1], STARTS[1:], strict=True)], axis=1)
    assert counts.max() == 1
    assert counts[:, [0, 1, 4, 7]].min() == 1  # group, period, valence electrons and block are always known


def test_oxygen():
    """Group 16, period 2, 3.44, 63 pm, 6 electrons, 13.6 eV, 1.46 eV, p, 14.0 cm3/mol."""
    expected = [16, 20, 26 + 8, 36 + 1, 46 + 5, 58 + 6, 68 + 6, 79, 82 + 4]
    assert np.flatnonzero(element_table()[8]).tolist() == expected


def test_all_but_the_least_known_elements_differ():
    assert len(np.unique(element_table()[1:95], axis=0)) >= 90


def test_check_names_elements_without_features():
    with pytest.raises(InputError, match=r"Lr \(103\), Og \(118\)"):
        check_elements(element_table(), [8, 103, 1, 118])


def test_check_refuses_numbers_that_are_no_element():
    with pytest.raises(InputError, match="features for 0, 119"):
        check_elements(element_table(), [119, 0])


def test_check_passes_described_elements():
    check_elements(element_table(), range(1, 101))


def test_own_table_of_any_width(tmp_path):
    path = tmp_path / "atom_init.json"
    path.write_text(json.dumps({"1": [0.5, 1, 2], "118": [3, 4, 5]}))
    table = element_table(path)
    assert table.shape == (119, 3)
    assert table[118].tolist() == [3.0, 4.0, 5.0]
    with pytest.raises(InputError, match=r"C \(6\)"):
        check_elements(table, [1, 6])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("[]", "must be an object"),
        ("{}", "must be an object"),
        ('{"H": [1]}', "key 'H'"),
        ('{"0": [1]}', "from 1 to 118"),
        ('{"119": [1]}', "from 1 to 118"),
        ('{"01": [1]}', "from 1 to 118"),
        ('{"1": []}', "finite numbers"),
        ('{"1": ["a"]}', "finite numbers"),
        ('{"1": [true]}', "finite numbers"),
        ('{"1": [[1]]}', "finite numbers"),
        ('{"1": [NaN]}', "finite numbers"),
        ('{"1": [1e300]}', "finite numbers"),
        (f'{{"1": [1{"0" * 400}]}}', "finite numbers"),
        ('{"1": 3}', "finite numbers"),
        ('{"1": [1], "2": [1, 2]}', "2 numbers where others have 1"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "atom_init.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        element_table(path)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        element_table(tmp_path / "none.json")
