"""Checks against a baseline: who fails, who does not, how often by chance, and which baselines are refused."""

import json

import numpy as np
import pytest
from conftest import hpc_kit
from timed_runs import conditions, timed_run

from hpc_kit.bench.baseline import ALARMS, check, write_baseline
from hpc_kit.bench.statistics import Side, slower_by
from hpc_kit.spec.errors import InputError


def about(median: float, seed: int = 0):
    def walls(task):
        random = np.random.default_rng([task.seed, seed])
        run = median * np.exp(random.normal(0, 0.01))
        return [2 * run, *(run * np.exp(random.normal(0, 0.01, 9)))]

    return walls


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    write_baseline([timed_run(folder / "run", about(1.0), "seeds=[0, 1, 2, 3]")], folder / "base.json", force=False)
    return folder / "base.json"


def test_a_slower_run_fails_and_an_equal_one_does_not(baseline, tmp_path):
    timed_run(tmp_path / "equal", about(1.0, 1), "seeds=[0, 1, 2, 3]")
    new = conditions(software__torch="2.14.0")
    timed_run(tmp_path / "slow", about(1.3, 2), "seeds=[0, 1, 2, 3]", where=new)
    out = hpc_kit("bench", "check", tmp_path / "equal", "--baseline", baseline, cwd=tmp_path)
    assert (out.returncode, out.stderr) == (0, "") and "passed" in out.stdout
    out = hpc_kit("bench", "check", tmp_path / "slow", "--baseline", baseline, "--json", cwd=tmp_path)
    assert (out.returncode, out.stderr) == (1, "slower than 1.05 times the baseline: the run\n")
    [one] = json.loads(out.stdout)["configurations"]
    assert one["outcome"] == "slower" and one["ratio"] == pytest.approx(1.3, rel=0.05)
    assert [field["field"] for field in one["fields"] if field["matters"]] == ["software.torch"]


def test_between_is_undecided(baseline, tmp_path):
    run = timed_run(tmp_path / "run", about(1.05, 3), "seeds=[0, 1, 2, 3]")
    [one] = check(run, baseline, 1.05)["configurations"]
    assert one["outcome"] == "undecided" and one["low"] < 1.05 < one["high"]


@pytest.mark.parametrize("limit", [1.0, 1.05])
@pytest.mark.parametrize(("before", "now"), [(3, 3), (2, 5), (10, 10)])
def test_runs_that_keep_the_limit_fail_as_seldom_as_stated(before, now, limit):
    random, count = np.random.default_rng(11), 1500

    def side(runs, median):
        medians = median * np.exp(random.normal(0, 0.03, (runs, 1)))
        return Side(list(medians * np.exp(random.normal(0, 0.02, (runs, 9)))))

    alarms = sum(slower_by(side(now, limit), side(before, 1.0), ALARMS).low > limit for _ in range(count))
    assert alarms / count < ALARMS + 2 * np.sqrt(ALARMS * (1 - ALARMS) / count)


def test_of_several_configurations_all_together_fail_as_seldom(baseline, tmp_path):
    grid = ["grid={model.interactions: [1, 2, 3]}", "seeds=[0, 1, 2]"]
    first = timed_run(tmp_path / "a", about(1.0), *grid)
    write_baseline([first, timed_run(tmp_path / "b", about(1.0, 1), *grid)], tmp_path / "base.json", force=False)
    found = check(timed_run(tmp_path / "c", about(1.0, 2), *grid), tmp_path / "base.json", 1.0)
    now = [[task_walls[1:] for task_walls in map(about(1.0, 2), of_cell(first, n))] for n in (1, 2, 3)]
    before = [[walls[1:] for seed in (0, 1) for walls in map(about(1.0, seed), of_cell(first, n))] for n in (1, 2, 3)]
    lows = [slower_by(Side(new), Side(old), ALARMS / 3).low for new, old in zip(now, before, strict=True)]
    assert [one["low"] for one in found["configurations"]] == pytest.approx(lows)


def of_cell(run, interactions):
    return [task for task in run.read_plan().tasks if task.cell["model.interactions"] == interactions]


@pytest.mark.parametrize(
    ("overrides", "where", "reason"),
    [
        (["train.batch_size=8", "seeds=[0, 1]"], {}, r"does other work than .*train.batch_size: 16 \| 8"),
        (["seeds=[0, 1]"], {"cpu__model": "another"}, "was timed under other conditions than .*cpu.model"),
        (["seeds=[0]"], {}, "has one run, which does not tell how runs differ"),
    ],
)
def test_what_cannot_be_held_against_it_is_refused(baseline, tmp_path, overrides, where, reason):
    run = timed_run(tmp_path / "run", about(1.0), *overrides, where=conditions(**where))
    with pytest.raises(InputError, match=reason):
        check(run, baseline, 1.05)


def test_unfit_runs_are_no_baseline(tmp_path):
    busy = timed_run(tmp_path / "run", about(1.0), "seeds=[0, 1]", others_cpu_s=0.9, cores=2)
    with pytest.raises(InputError, match="is not fit to be judged by: seed=0: other processes"):
        write_baseline([busy], tmp_path / "base.json", force=False)


def test_a_baseline_that_is_changed_damaged_or_none_is_refused(baseline, tmp_path):
    run = timed_run(tmp_path / "run", about(1.0), "seeds=[0, 1]")
    text = baseline.read_text()
    for content, reason in (
        (text.replace('"seconds": [1', '"seconds": [2'), "was changed after it was written"),
        (text[:200], "is damaged"),
        (text.replace('"schema_version": 1', '"schema_version": 7', 1), "schema version 7"),
        ("{}", "no baseline"),
    ):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(InputError, match=reason):
            check(run, tmp_path / "other.json", 1.05)
    with pytest.raises(InputError, match="there is no such file"):
        check(run, tmp_path / "none.json", 1.05)
