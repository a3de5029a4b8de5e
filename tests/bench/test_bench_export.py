"""Timings in others' forms: the lines of MLPerf's logs, and a record with hardware and hours."""

import json

import pytest
from conftest import hpc_kit, probe_run
from timed_runs import timed_run

from hpc_kit.bench.export import write_matbench, write_mlperf
from hpc_kit.spec.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    walls = {0: [4.0, 2.0, 2.0], 1: [5.0, 3.0, 3.0], 2: None}
    return timed_run(tmp_path_factory.mktemp("export") / "run", lambda task: walls[task.seed], "seeds=[0, 1, 2]")


def test_mlperf_lines_pair_up_and_carry_the_times_of_the_records(run, tmp_path):
    paths = write_mlperf(run, tmp_path / "logs", force=False)
    assert [path.stem for path in paths] == [task.id for task in run.read_plan().tasks[:2]]
    lines = paths[0].read_text().splitlines()
    assert all(line.startswith(":::MLLOG {") for line in lines)
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    assert all(list(event) == ["namespace", "time_ms", "event_type", "key", "value", "metadata"] for event in events)
    assert [event["time_ms"] for event in events] == sorted(event["time_ms"] for event in events)
    values = {event["key"]: event["value"] for event in events}
    assert (values["seed"], values["global_batch_size"]) == (0, 16)
    starts = [event for event in events if event["key"] == "epoch_start"]
    stops = [event for event in events if event["key"] == "epoch_stop"]
    assert [b["time_ms"] - a["time_ms"] for a, b in zip(starts, stops, strict=True)] == [4000, 2000, 2000]
    assert [event["metadata"]["epoch_num"] for event in starts] == [0, 1, 2]
    assert events[-1]["key"] == "run_stop" and events[-1]["metadata"] == {"status": "success"}


def test_record_has_scores_hardware_and_hours(run, tmp_path):
    [path] = write_matbench(run, tmp_path / "out", force=False)
    record = json.loads(path.read_text())
    seeds = record["tasks"]["quickstart"]["results"]
    assert list(seeds) == ["seed_0", "seed_1"]
    assert seeds["seed_1"]["scores"]["zpve"] == {"unit": "eV", "mae": 0.1, "rmse": 0.2, "r2": 0.9}
    assert seeds["seed_1"]["hours"] == {"wall": 11 / 3600, "core": 11 / 3600, "gpu": 0.0}
    assert seeds["seed_1"]["hardware"]["gpus"] == [] and seeds["seed_1"]["hardware"]["cores"] == 1
    assert record["hours"]["wall"] == pytest.approx(19 / 3600)


def test_what_is_there_or_cannot_be_exported_is_refused(run, tmp_path):
    write_matbench(run, tmp_path, force=False)
    with pytest.raises(InputError, match="record.json: exists; --force writes it anew"):
        write_matbench(run, tmp_path, force=False)
    write_matbench(run, tmp_path, force=True)
    with pytest.raises(InputError, match="has no finished task"):
        write_mlperf(timed_run(tmp_path / "a", lambda task: None, "seeds=[0]"), tmp_path / "logs", force=False)
    with pytest.raises(InputError, match="is of kind 'probe', which trains nothing"):
        write_mlperf(probe_run(tmp_path / "b"), tmp_path / "logs", force=False)


def test_the_leaderboard_wants_a_name(run, tmp_path):
    command = ("bench", "export", run.path, "--format", "jarvis", "--out", tmp_path / "out")
    out = hpc_kit(*command, cwd=tmp_path)
    assert (out.returncode, out.stderr) == (2, "the leaderboard wants --team, --email with an @, and --project\n")
