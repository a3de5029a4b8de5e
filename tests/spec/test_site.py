"""Site files."""

import pytest

from hpc_kit.spec.errors import InputError
from hpc_kit.spec.site import load_site


def test_local_site_ships():
    assert load_site("local").scheduler == "local"


def test_site_may_be_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: my box\nscheduler: local\nslots: 3\n")
    assert load_site(str(tmp_path / "mine.yaml")).slots == 3


def test_unknown_key_in_a_site_file_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: my box\nscheduler: local\nslot: 3\n")
    with pytest.raises(InputError, match=r"mine.yaml:4: slot: unknown key; did you mean 'slots'"):
        load_site(str(tmp_path / "mine.yaml"))


def test_unknown_site_lists_those_that_ship():
    with pytest.raises(InputError, match="allowed: .*local"):
        load_site("locl")
