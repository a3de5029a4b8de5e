"""Comparing timings: what is refused, what is said of equal and of different runs, and of runs that are not fit."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, hpc_kit, probe_run
from timed_runs import HERE, conditions, timed_run

from hpc_kit.bench.baseline import write_baseline
from hpc_kit.bench.compare import compare_runs
from hpc_kit.bench.fields import FIELDS, differences, entry_of, flatten
from hpc_kit.files import write_json
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.errors import InputError


def about(median: float, seed: int = 0):
    """Return times of 12 epochs about `median` seconds, 3 % apart between runs and 2 % within; the first is slow."""

    def walls(task):
        random = np.random.default_rng([task.seed, seed])
        run = median * np.exp(random.normal(0, 0.03))
        return [3 * run, *(run * np.exp(random.normal(0, 0.02, 11)))]

    return walls


def only(comparison):
    [run] = comparison["runs"]
    [one] = run["configurations"]
    return one


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> RunDir:
    return timed_run(tmp_path_factory.mktemp("base") / "run", about(1.0), "seeds=[0, 1, 2]")


def test_equal_runs_are_comparable_and_no_difference_is_seen(base, tmp_path):
    one = only(compare_runs([base, timed_run(tmp_path / "b", about(1.0, 1), "seeds=[0, 1, 2]")]))
    assert (one["verdict"], one["difference"]) == ("comparable", "no difference seen")
    assert one["effect"]["low"] < 1 < one["effect"]["high"]
    assert one["medians"][0] == pytest.approx(1.0, rel=0.1)  # the warm-up, three times as long, is left out
    assert 1.0 < one["effect"]["detectable"] < 1.5


def test_a_slower_run_under_the_same_conditions_is_slower(base, tmp_path):
    one = only(compare_runs([base, timed_run(tmp_path / "b", about(1.5, 1), "seeds=[0, 1, 2]")]))
    assert (one["verdict"], one["difference"]) == ("comparable", "slower")
    assert one["effect"]["ratio"] == pytest.approx(1.5, rel=0.1)


def test_other_work_is_refused_by_name(base, tmp_path):
    other = timed_run(tmp_path / "b", about(1.0), "train.batch_size=32", "train.precision=bf16", "seeds=[0, 1, 2]")
    with pytest.raises(InputError, match=r"train.batch_size: 16 \| 32; train.precision: fp32 \| bf16"):
        compare_runs([base, other])
    two_ranks = timed_run(tmp_path / "c", about(1.0), "resources.ranks_per_node=2", "seeds=[0, 1, 2]")
    with pytest.raises(InputError, match=r"world_size: 1 \| 2. One job with a grid over resources"):
        compare_runs([base, two_ranks])


def test_more_epochs_are_the_same_work(base, tmp_path):
    one = only(compare_runs([base, timed_run(tmp_path / "b", about(1.0, 1), "train.epochs=50", "seeds=[0, 1, 2]")]))
    assert one["verdict"] == "comparable"


def test_another_number_of_threads_differs_and_says_why(base, tmp_path):
    where = conditions(software__torch_threads=2)
    two = timed_run(tmp_path / "b", about(0.6), "resources.cpus_per_rank=2", "seeds=[0, 1, 2]", where=where)
    one = only(compare_runs([base, two]))
    assert (one["verdict"], one["difference"]) == ("not comparable", "faster")
    assert any(reason.startswith("resources.cpus_per_rank: 1 | 2 (threads") for reason in one["reasons"])


def test_another_cpu_is_not_comparable_alone_and_is_when_normalised(base, tmp_path):
    grid = ["grid={model.interactions: [1, 2]}", "seeds=[0, 1, 2]"]
    where = conditions(cpu__model="another CPU")
    one = only(compare_runs([base, timed_run(tmp_path / "b", about(1.0), "seeds=[0, 1, 2]", where=where)]))
    assert one["verdict"] == "not comparable"
    assert any("cpu.model" in reason and "another CPU" in reason for reason in one["reasons"])

    def of_cell(speed):
        return lambda task: about(speed * task.cell["model.interactions"])(task)

    a, b = timed_run(tmp_path / "c", of_cell(1.0), *grid), timed_run(tmp_path / "d", of_cell(1.7), *grid, where=where)
    told = compare_runs([a, b])["runs"][0]["configurations"]
    assert {one["verdict"] for one in told} == {"comparable when normalised"}
    assert {one["difference"] for one in told} == {"slower"}
    told = compare_runs([a, b], "model.interactions=2")["runs"][0]["configurations"]
    assert told[0]["difference"] == "no difference seen"
    assert told[0]["normalised"]["ratio"] == pytest.approx(1.0, rel=0.1)
    with pytest.raises(InputError, match="no configuration that both runs have is called so; there are 'model.int"):
        compare_runs([a, b], "4,4")


def test_an_unfit_run_is_named(base, tmp_path):
    busy = timed_run(tmp_path / "b", about(1.0), "seeds=[0, 1, 2]", others_cpu_s=0.9, cores=2)
    one = only(compare_runs([base, busy]))
    assert one["verdict"] == "not comparable"
    assert any(reason.startswith("B is unfit: seed=0: other processes used 4") for reason in one["reasons"])


def test_cells_that_failed_are_shown_with_their_reason_and_no_number(tmp_path):
    grid = ["grid={model.interactions: [1, 2]}", "seeds=[0, 1]"]
    run = timed_run(tmp_path / "a", about(1.0), *grid)

    def half(task):
        return about(1.0)(task) if task.cell["model.interactions"] == 1 else None

    holes = timed_run(tmp_path / "b", half, *grid)
    first, second = compare_runs([run, holes])["runs"][0]["configurations"]
    assert first["effect"] is not None
    assert (second["effect"], second["medians"][1], second["verdict"]) == (None, None, "not comparable")
    assert second["reasons"] == [f"model.interactions=2 seed={seed}: planned" for seed in (0, 1)]


def test_fewer_than_three_epochs_give_no_number(base, tmp_path):
    one = only(compare_runs([base, timed_run(tmp_path / "b", lambda task: [3.0, 1.0, 1.0], "seeds=[0, 1, 2]")]))
    assert one["effect"] is None and one["difference"] == "not judged"
    assert one["reasons"][0] == "seed=0: has 2 timed epochs after its warm-up; 3 are needed"


def test_records_of_another_schema_and_of_other_kinds_are_refused(base, tmp_path):
    old = timed_run(tmp_path / "b", about(1.0), "seeds=[0, 1, 2]", where=HERE | {"schema_version": 99})
    with pytest.raises(InputError, match="fingerprint.json: schema version 99; this hpc_kit reads version 1"):
        compare_runs([base, old])
    with pytest.raises(InputError, match="is of kind 'probe', which times no epochs"):
        compare_runs([base, probe_run(tmp_path / "c")])


def test_a_record_without_the_newer_fields_leaves_them_unknown():
    [found] = differences([flatten({"cpu": {"smt": "on"}, "work": {"device": "cpu"}})], [{"work.device": "cpu"}])
    assert (found.field, found.a, found.b, found.matters) == ("cpu.smt", "on", "not known", None)


def test_what_matters_depends_on_what_is_measured():
    on_cpu = {"work.device": "cpu", "work.world_size": 1, "work.loader": "in memory"}
    on_gpu = {"work.device": "cuda", "work.world_size": 8, "work.loader": "in memory"}
    for name, there, here in (
        ("gpus.power_limit_w", True, False),
        ("environment.NCCL_CROSS_NIC", True, False),
        ("software.h5py", False, False),
        ("software.torch", True, True),
        ("a.field.of.the.future", None, None),
    ):
        sides = (([one | {name: "1"}], [one | {name: "2"}]) for one in (on_gpu, on_cpu))
        sides = (([one | {name: "1"}], [one | {name: "2"}]) for one in (on_gpu, on_cpu))
        matters = [differences(*both)[0].matters for both in sides]
        assert matters == [there, here], name


def test_every_field_of_a_fingerprint_has_its_entry():
    fields = flatten(HERE["comparable"])
    assert [name for name in fields if entry_of(name).effect == "no entry in the table"] == ["work.world_size"]


def test_the_documentation_shows_the_table_of_fields():
    text = (ROOT / "docs" / "comparing.md").read_text()
    assert [field.name for field in FIELDS if f"`{field.name}`" not in text] == []


def test_command_prints_the_verdict_and_json(base, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(base.path, again)
    out = hpc_kit("bench", "compare", base.path, again, cwd=tmp_path)
    assert out.returncode == 0 and "comparable" in out.stdout, out.stdout + out.stderr
    told = json.loads(hpc_kit("bench", "compare", base.path, again, "--json", cwd=tmp_path).stdout)
    assert only(told)["effect"]["ratio"] == 1.0
    write_json(RunDir(again).task(base.read_plan().tasks[0].id).fingerprint, conditions(cpu__model="x"))
    out = hpc_kit("bench", "compare", base.path, again, cwd=tmp_path)
    assert out.returncode == 2 and "it is not what done.json vouches for" in out.stderr


def test_a_run_is_no_replicate_of_itself(base, tmp_path):
    with pytest.raises(InputError, match="is named twice"):
        compare_runs([base, base])
    with pytest.raises(InputError, match="is named twice"):
        write_baseline([base, base], tmp_path / "baseline.json", force=False)
