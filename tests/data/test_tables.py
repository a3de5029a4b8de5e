"""Tables of targets: what no row or no column may leave open is refused before anything is converted."""

import pytest

from hpc_kit.data.sources.tables import Table
from hpc_kit.spec.errors import InputError


def table(tmp_path, text: str, *columns: str, **options) -> Table:
    (tmp_path / "t.csv").write_text(text)
    return Table(tmp_path / "t.csv", options.pop("id_column", None), list(columns), **options)


@pytest.mark.parametrize(
    ("text", "columns"), [("id,gap,e,gap\na,1,2,3\n", []), ("id,gap,e,gap\na,1,2,3\n", ["gap"]), ("id,id\na,1\n", [])]
)
def test_two_columns_of_one_name_are_refused(tmp_path, text, columns):
    with pytest.raises(InputError, match=r"t.csv: 2 columns are called '(gap|id)': rename all but one"):
        table(tmp_path, text, *columns)


def test_two_columns_of_one_name_that_nobody_asks_for_are_left_alone(tmp_path):
    assert table(tmp_path, "id,note,e,note\na,1,2,3\n", "e").rows() == {"a": ["2"]}


@pytest.mark.parametrize("header", [True, False])
def test_column_without_a_value_is_refused(tmp_path, header):
    text = ("id,e,gap\n" if header else "") + "a,1,\nb,2,nan\nc,,N/A\n"
    with pytest.raises(InputError, match="t.csv: column 'gap' holds no value in any row; leave it out with columns="):
        table(tmp_path, text, "e", "gap", header=header)
    assert table(tmp_path, text, "e", header=header).columns == ["e"]
