"""When timed epochs are unfit, by what their records say; and the counters that these records are made of."""

import os

import pytest

from hpc_kit.bench import pagecache
from hpc_kit.bench.clocks import CpuClock, union
from hpc_kit.bench.fitness import reasons
from hpc_kit.bench.meters import Reading, between, joules, rapl
from hpc_kit.bench.metrics import overhead, why_enough
from hpc_kit.bench.statistics import median_interval
from hpc_kit.bench.timed import merged
from hpc_kit.spec.job import load_job

QUIET = {
    "wall_s": 10.0, "cpu_s": 9.5, "compute_s": 9.0, "eval_s": 0.5, "world_size": 1, "peak_gpu_mb": None, "cores": 8,
    "others_cpu_s": 1.0, "steal_s": 0.0, "queued_s": 0.1, "throttled": [], "cached": 1.0, "warmup": False,
}  # fmt: skip


def test_nothing_speaks_against_a_quiet_machine():
    assert reasons([QUIET, QUIET], "warm") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"others_cpu_s": 20.0}, "other processes used 25% of the node's cores (limit 10%)"),
        ({"steal_s": 4.0}, "the hypervisor gave 5.0% of the cores' time to others (limit 1%)"),
        ({"queued_s": 4.0, "threads": 2}, "its threads waited for a core for 20% of the time (limit 5%)"),
        ({"cpu_s": 1.9}, "it had a core for 20% of the time in which it computed (at least 70%)"),
        ({"throttled": ["GPU: heat"]}, "throttled: GPU: heat"),
        ({"cached": 0.5}, "the page cache could not be kept warm: 50% of the shards were in memory"),
        ({"cached": None}, "whether the page cache was warm cannot be seen: the shards are another user's"),
    ],
)
def test_each_rule_names_what_it_saw(change, reason):
    assert reasons([QUIET | change], "warm") == [reason]


def test_shards_that_stay_in_memory_are_not_cold():
    assert reasons([QUIET | {"cached": 0.0}], "cold") == []
    assert "could not be made cold: 100%" in reasons([QUIET], "cold")[0]


def test_a_training_is_judged_by_its_cpu_time():
    line = {key: QUIET[key] for key in ("wall_s", "cpu_s", "compute_s", "eval_s", "world_size", "peak_gpu_mb")}
    assert reasons([line]) == []
    assert "had a core for 21%" in reasons([line | {"cpu_s": 2.0}])[0]
    assert reasons([line | {"cpu_s": 2.0, "peak_gpu_mb": 500.0}]) == []  # a GPU works while its process waits


def test_a_counter_of_energy_that_went_round_is_no_negative_energy(tmp_path):
    for name, text in (("energy_uj", "5000000"), ("max_energy_range_uj", "262143328850")):
        (tmp_path / "intel-rapl:0").mkdir(exist_ok=True)
        (tmp_path / "intel-rapl:0" / name).write_text(text)
    now = rapl(tmp_path)
    assert joules({"intel-rapl:0": (262143328850 - 1000000, 262143328850)}, now) == 6.0
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert joules(now, rapl(tmp_path)) is None


def test_energy_that_cannot_be_read_is_said_and_never_zero():
    nothing = Reading(None, None, None, None, {}, None, None)
    mine = between(nothing, nothing) | {
        "host": "n1", "is_first": True, "cores": 8, "threads": 1, "load": 0.1, "cached": 0.0, "phases": None,
        "wall_s": 2.0, "cpu_s": 1.0, "peak_rss_mb": 1.0, "peak_gpu_mb": None,
    }  # fmt: skip
    other = mine | {"is_first": False, "wall_s": 3.0, "cached": None}
    found = merged([mine, other], "cold")
    assert found["energy_j"] == {"gpu": "not readable", "cpu": "not readable"}
    assert found["others_cpu_s"] is None and found["steal_s"] is None
    assert (found["wall_s"], found["rank_wall_s"], found["cached"]) == (3.0, [2.0, 3.0], 0.0)


def test_the_page_cache_is_dropped_and_filled(tmp_path):
    path = tmp_path / "shard.h5"
    with path.open("wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    pagecache.fill([path])
    assert pagecache.resident([path]) == 1.0
    pagecache.drop([path])
    if pagecache.resident([path]) == 1.0:
        pytest.skip("this file system lies in memory")
    assert pagecache.resident([path]) == 0.0


def test_the_interval_of_a_median_are_two_of_the_values():
    assert median_interval([5, 1, 4, 2, 3, 8, 7, 6]) == (1, 8)
    assert median_interval(list(range(1, 101))) == (40, 61)
    assert median_interval([1.0] * 7) is None


def test_enough_is_a_narrow_interval_after_the_least_epochs_or_the_end_of_the_budget():
    asked = load_job(
        "benchmark-sample", ["benchmark={warmup_epochs: 1, min_epochs: 10, max_epochs: 12}"]
    ).job.benchmark
    same = [{"wall_s": 1.0, "warmup": number == 0} for number in range(12)]
    assert [why_enough(same[:count], asked, 100.0) for count in (10, 11)] == [None, "width"]
    spread = [line | {"wall_s": 1.0 + number} for number, line in enumerate(same)]
    assert why_enough(spread, asked, 1000.0) is None
    assert why_enough(spread, asked, 50.0) == "budget"
    assert why_enough([*spread, spread[-1]], asked, 1000.0) == "max_epochs"


def test_the_cost_of_clocks_is_that_of_epochs_beside_each_other():
    lines = [{"wall_s": 2.02 if n % 2 else 2.0, "phases": {} if n % 2 else None} for n in range(16)]
    found = overhead(lines)
    assert found["ratio"] == pytest.approx(1.01) and found["pairs"] == 8
    assert overhead(lines[:1]) is None


def test_laps_and_sums_that_overlap_are_counted_once():
    assert union([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == 4.0
    clock = CpuClock()
    clock.begin()
    clock.lap("forward_s")
    clock.is_on = False
    assert clock.summing() is None and clock.read() is None
