"""Site files."""

import pytest

from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.site import load_site, site_files
from hpc_kit.spec.walltime import in_seconds


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


SHIPPED = sorted(file for file in shipped_folder("site_configs").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_site_is_whole_and_says_where_it_comes_from(file):
    site = load_site(file.stem)
    assert site.name == file.stem
    if site.scheduler != "local":
        assert "20" in file.read_text().splitlines()[0] and site.partition in site.partitions
    for name, partition in site.partitions.items():
        assert partition.min_nodes <= (partition.max_nodes or partition.min_nodes), name
        assert in_seconds(partition.min_walltime or "00:00:00") < in_seconds(partition.max_walltime), name


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's own folder of sites."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".config" / "hpc_kit" / "sites"
    folder.mkdir(parents=True)
    return folder


def test_own_site_extends_another_and_holds_only_what_differs(own):
    text = "extends: delta\naccount: bbka-delta-gpu\npartitions:\n  gpuA100x4: {max_walltime: '12:00:00'}\n"
    (own / "mine.yaml").write_text(text + "name: mine\n")
    mine, delta = load_site("mine"), load_site("delta")
    assert (mine.account, mine.name, mine.scheduler) == ("bbka-delta-gpu", "mine", "slurm")
    assert mine.partitions["gpuA100x4"].max_walltime == "12:00:00"
    assert mine.partitions["gpuA100x4"].gpus == 4 and mine.partitions.keys() == delta.partitions.keys()
    assert site_files()["mine"] == own / "mine.yaml"


def test_own_site_of_a_shipped_name_stands_before_it_and_may_extend_it(own):
    (own / "delta.yaml").write_text("extends: delta\naccount: mine\n")
    assert load_site("delta").account == "mine" and load_site("delta").scheduler == "slurm"


def test_account_and_partition_of_the_command_line_win(own):
    (own / "mine.yaml").write_text("extends: delta\nname: mine\naccount: a\npartition: cpu\n")
    site = load_site("mine", account="b", partition="gpuA40x4")
    assert (site.account, site.partition) == ("b", "gpuA40x4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: mine\nname: mine\n", r"mine.yaml:1: extends: mine: no such file"),
        (
            "extends: nowhere\nname: mine\n",
            "mine.yaml:1: extends: nowhere: no such file, and none of that name ships",
        ),
        ("extends: delta\nname: mine\npartition: gpu\n", "partition: 'gpu' is not one of cpu, "),
        (
            "extends: delta\nname: mine\npartitions:\n  cpu: {core: 3}\n",
            r"mine.yaml:4: partitions.cpu.core: unknown key",
        ),
        ("extends: delta\nname: mine\naccount: 'a; rm -rf x'\n", r"mine.yaml:3: account: must match"),
        (
            'extends: delta\nname: mine\noptions: ["--x\\n#SBATCH --y"]\n',
            r"mine.yaml:3: options.0: must be one line",
        ),
        ("name: mine\ndescription: x\nscheduler: slurm\n", "a site with scheduler 'slurm' needs at least one"),
        ("extends: delta\nname: mine\nenvironment: {'A B': x}\n", "must match"),
    ],
)
def test_mistake_in_an_own_site_is_named_with_its_place(own, text, message):
    (own / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_site("mine")


def test_account_of_the_command_line_is_checked_too():
    with pytest.raises(InputError, match="--account .*must match"):
        load_site("delta", account="$(touch harm)")


@pytest.mark.parametrize(
    "line",
    [
        'account: "a\\n#SBATCH --x"',
        'account: "a\\n"',
        'partition: "a\\n"',
        'description: "a\\rb"',
        'node_local: "/tmp\\u2028x"',
        'interface: "a\\0"',
        'partitions: {cpu: {queue: "a\\nb"}}',
        'partitions: {cpu: {gpu: "a\\nb"}}',
        'partitions: {cpu: {queue: "a --b"}}',
        'environment: {A: "b\\nc"}',
        'container: {command: "a\\nb"}',
        'paths: ["/a\\nb"]',
    ],
)
def test_text_of_a_site_that_would_break_a_line_of_a_script_is_refused(own, line):
    (own / "mine.yaml").write_text(f"extends: delta\nname: mine\n{line}\n")
    with pytest.raises(InputError, match="mine.yaml:3: .*(must be one line|no control characters|must match)"):
        load_site("mine")


def test_account_given_as_an_option_is_held_to_the_same_rule():
    with pytest.raises(InputError, match="account: must be one line"):
        load_site("delta", account="a\n#SBATCH --x")
