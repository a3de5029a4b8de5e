"""Searches as a user starts them, of real trainings, and what becomes of them when their processes are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import SMALL, hpc_kit, ledger_states, set_options, start_hpc_kit

from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import read_lines
from hpc_kit.search import messages
from hpc_kit.search.messages import Hub, connect
from hpc_kit.spec.errors import InputError, RankLost

MPIEXEC = Path(sys.prefix) / "bin" / "mpiexec"
# A narrow SchNet on 120 molecules; of the rates one gives no finite number.
JOB = """
name: hunt
kind: search
data: {source: sample, target: zpve}
search:
  strategy: random
  trials: 4
  initial: 4
  space:
    train.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}
    train.optimizer: [adam, adamw]
resources: {ranks_per_node: 2, gpus_per_rank: 0, cpus_per_rank: 1, walltime: "00:10:00"}
"""
BOTH_TRAIN = "search.rank_0_trains=true"  # two cores for two trials


class Search:
    """One search, run by a process of its own."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "run"
        (folder / "job.yaml").write_text(JOB)

    def words(self, *overrides: str) -> list[str]:
        return ["run", "job.yaml", *set_options([*SMALL, "train.epochs=2", *overrides]), "--run", str(self.path)]

    def run(self, *overrides: str) -> "Search":
        done = hpc_kit(*self.words(*overrides), cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        return self

    def start(self, *overrides: str) -> "Search":
        self.driver = start_hpc_kit(*self.words(*overrides), cwd=self.folder)
        return self

    def resume(self) -> "Search":
        self.driver = start_hpc_kit("resume", self.path, cwd=self.folder)
        return self

    def end(self, code: int = 0) -> None:
        assert self.driver.wait(150) == code, (self.folder / "driver.log").read_text() + self.log()

    @property
    def task(self):
        run = RunDir(self.path)
        return run.task(run.read_plan().tasks[0].id)

    @property
    def trials(self) -> RunDir:
        return RunDir(self.task.path / "trials")

    def log(self) -> str:
        return "".join(path.read_text() for path in self.path.glob("tasks/*/log.txt"))

    def lines(self, event: str) -> list[dict]:
        found = [line for path in self.path.glob("tasks/*/trials.jsonl") for line in read_lines(path)]
        return [line for line in found if line["event"] == event]

    def until(self, condition, seconds: float = 90.0):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline and self.driver.poll() is None, self.log()
            time.sleep(0.05)
        return value

    def at_work(self, since: int = 0, worker: int | None = None) -> int:
        """Wait until a trial that began after the first `since` ones has two epochs behind it; return its number."""

        def found():
            over = {line["number"] for line in self.lines("ended")}
            for line in self.lines("started")[since:]:
                number = line["number"]
                if number not in over and worker in (None, line["worker"]) and self.epochs(number) > 1:
                    return [number]

        return self.until(found)[0]

    def epochs(self, number: int) -> int:
        return len(read_lines(self.folder_of(number) / "epochs.jsonl"))

    def folder_of(self, number: int) -> Path:
        [name] = [line["id"] for line in self.lines("asked") if line["number"] == number]
        return self.trials.task(name).path

    def child_of(self, number: int) -> psutil.Process:
        return psutil.Process(json.loads((self.folder_of(number) / "process.json").read_text())["pid"])

    def kill_worker(self, rank: int) -> None:
        [pid, *_] = re.findall(rf"^rank {rank} of \d+ works at .*:(\d+)$", self.log(), re.MULTILINE)
        os.kill(int(pid), signal.SIGKILL)

    def whole(self, trials: int) -> None:
        """Check that each trial has ended for good once and has each of its epochs once."""
        ends = [line["number"] for line in self.lines("ended") if line["state"] in ("done", "pruned", "failed")]
        assert sorted(ends) == list(range(trials))
        for line in self.lines("asked"):
            epochs = [record["epoch"] for record in read_lines(self.folder_of(line["number"]) / "epochs.jsonl")]
            assert epochs == list(range(len(epochs)))
        assert len({line["id"] for line in self.lines("asked")}) == trials


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Search:
    """A search of four trials in groups of two ranks, one of them with a rate at which nothing is finite."""
    points = [{"train.learning_rate": rate, "train.optimizer": "adam"} for rate in (1e-3, 1e30, 1e-4, 5e-4)]
    space = "search.space={train.learning_rate: {low: 1e-4, high: 1e30, log: true}, train.optimizer: [adam, adamw]}"
    over = [space, f"search.points={json.dumps(points)}", "search.ranks_per_trial=2"]
    return Search(tmp_path_factory.mktemp("search")).run(BOTH_TRAIN, *over)


def test_each_trial_is_scored_and_a_failure_has_its_reason(searched):
    searched.whole(4)
    ends = {line["number"]: line for line in searched.lines("ended")}
    rates = {line["number"]: line["values"]["train.learning_rate"] for line in searched.lines("asked")}
    [bad] = [number for number, rate in rates.items() if rate == 1e30]
    assert ends[bad]["state"] == "failed" and ends[bad]["reason"].startswith("not finite: ")
    for number in ends.keys() - {bad}:
        records = read_lines(searched.folder_of(number) / "epochs.jsonl")
        assert ends[number]["objectives"]["error"] == min(record["val_mae"] for record in records)
        assert (ends[number]["epochs"], records[0]["world_size"]) == (2, 2)
    best = json.loads(searched.task.metrics.read_text())["best"]
    assert best["error"] == min(ends[number]["objectives"]["error"] for number in ends.keys() - {bad})


def test_trial_is_a_run_like_any_other(searched, tmp_path, command):
    states = json.loads(command("status", searched.trials.path, "--json").stdout)
    assert sorted(state["state"] for state in states) == ["done", "done", "done", "failed"]
    done = next(state["id"] for state in states if state["state"] == "done")
    assert "epoch 2/2" in command("logs", searched.trials.path, done).stdout
    rows = json.loads(command("report", searched.trials.path, "--json").stdout)["tasks"]
    assert sum(bool(row["targets"]) for row in rows) == 3
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n")
    found = command("predict", searched.trials.task(done).best, "water.xyz", "--out", "found.csv")
    assert found.returncode == 0, found.stderr


def test_trial_has_the_losses_of_the_same_training_alone(searched, tmp_path):
    [first] = [line for line in searched.lines("asked") if line["number"] == 0]
    over = [f"{key}={value}" for key, value in first["values"].items()]
    two = ["seeds=[0]", "resources.cpus_per_rank=1", "resources.ranks_per_node=2"]
    alone = hpc_kit(
        "run", "quickstart", *set_options([*SMALL, "train.epochs=2", *over, *two]), "--run", "alone", cwd=tmp_path
    )
    assert alone.returncode == 0, alone.stderr
    [records] = [read_lines(path) for path in tmp_path.glob("alone/tasks/*/epochs.jsonl")]
    theirs = read_lines(searched.folder_of(0) / "epochs.jsonl")
    for key in ("train_loss", "val_mae"):
        assert [line[key] for line in theirs] == pytest.approx([line[key] for line in records], rel=1e-4)


def test_killed_process_is_one_trials_end_and_a_killed_worker_no_searchs(tmp_path):
    search = Search(tmp_path).start(BOTH_TRAIN, "train.epochs=20", "search.trials=3")
    hit = search.at_work(worker=0)
    search.child_of(hit).kill()
    other = search.at_work(worker=1)
    search.kill_worker(1)  # which its launcher starts again
    search.end()
    search.whole(3)
    lost = {line["number"]: line["reason"] for line in search.lines("ended") if line["state"] == "lost"}
    assert lost.keys() == {hit, other} and lost[hit] == "process killed: by SIGKILL"
    assert lost[other].startswith("rank lost: rank 1 of 2 (host ")
    for number in lost:
        assert [line["attempt"] for line in search.lines("started") if line["number"] == number] == [1, 2]
        assert "resuming at epoch" in (search.folder_of(number) / "log.txt").read_text()


def test_killed_search_goes_on_and_a_signal_has_it_stop_and_start_again(tmp_path):
    search = Search(tmp_path).start(BOTH_TRAIN, "train.epochs=20", "search.trials=4")
    search.until(lambda: search.lines("ended"))
    search.at_work(2)
    os.kill(json.loads((search.task.path / "task.lock").read_text())["pid"], signal.SIGKILL)  # rank 0
    search.end(code=1)
    before = {line["number"] for line in search.lines("ended") if line["state"] == "done"}
    open_ones = {line["number"] for line in search.lines("started")} - before
    count = len(search.lines("started"))
    search.resume()
    search.at_work(count)
    os.kill(search.task.read_process()["pid"], signal.SIGUSR1)
    search.end()
    search.whole(4)
    later = [line["number"] for line in search.lines("started")[count:]]
    assert not before & set(later) and later[0] in open_ones
    assert {line["state"] for line in search.lines("ended")} == {"done", "interrupted"}
    assert ledger_states(search.path)[-3:] == ["submitted", "started", "done"] and "preempted" in ledger_states(
        search.path
    )


def test_trial_that_is_worse_than_the_others_is_pruned_and_scored_all_the_same(tmp_path):
    space = "search.space={train.learning_rate: {low: 1e-11, high: 1e-3, log: true}}"
    points = f"search.points={json.dumps([{'train.learning_rate': rate} for rate in (1e-3, 5e-4, 1e-10, 1e-11)])}"
    search = Search(tmp_path).run("search.pruning={rule: median, least: 1}", space, points, "train.epochs=6")
    search.whole(4)
    pruned = [line for line in search.lines("ended") if line["state"] == "pruned"]
    assert pruned and all(line["epochs"] < 6 and line["objectives"]["error"] > 0 for line in pruned)
    assert not search.trials.task(search.folder_of(pruned[0]["number"]).name).is_done()


def test_open_mpi_starts_the_ranks_and_one_may_die(tmp_path):
    search = Search(tmp_path)
    root = ["--allow-run-as-root", "--oversubscribe", "-n", "3"]
    words = search.words("resources.ranks_per_node=3", "train.epochs=20", "search.trials=3")
    with (tmp_path / "driver.log").open("wb") as log:
        argv = [str(MPIEXEC), *root, sys.executable, "-m", "hpc_kit", *words]
        search.driver = subprocess.Popen(argv, cwd=tmp_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    search.at_work(worker=2)
    search.kill_worker(2)
    search.end()
    search.whole(3)
    assert [line["reason"].split(":")[0] for line in search.lines("ended") if line["state"] == "lost"] == [
        "rank lost"
    ]


def test_another_number_of_ranks_is_refused(searched, command):
    alone = command("task", searched.task.path)
    assert (
        alone.returncode == 2
        and "asks for 2 ranks" in alone.stderr
        and "nothing tells it of any other" in alone.stderr
    )


def test_app_searches_from_a_script_of_ones_own(tmp_path):
    Search(tmp_path)
    over = [*SMALL, "train.epochs=1", "search.trials=2", "search.initial=2"]
    (tmp_path / "mine.py").write_text(
        "import parsl\nfrom hpc_kit.apps import search_app\nfrom hpc_kit.sites import load_site\n"
        "with parsl.load(load_site('local').parsl_config({'gpus_per_rank': 0, 'cpus_per_rank': 1})):\n"
        f"    print(sorted(search_app('job.yaml', 'run', {over!r}).result()))\n"
    )
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("run/tasks/*/trials/tasks/*/done.json"))) == 2


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path / "rendezvous.json", True, "")
    yield hub
    hub.close()


def test_messages_reach_the_worker_they_are_for(hub, tmp_path):
    worker, told = connect(tmp_path / "rendezvous.json", {"rank": 3, "host": "here"}, 5.0)
    assert told["idle_host"] == "" and hub.inbox.get(timeout=5)[1]["host"] == "here"
    hub.send(3, {"is": "run"})
    assert worker.read() == [{"is": "run"}]
    worker.send({"is": "ready"})
    assert hub.inbox.get(timeout=5) == (3, {"is": "ready"})
    worker.close()
    assert hub.inbox.get(timeout=5) == (3, None)


def test_second_process_of_a_rank_is_refused(hub, tmp_path):
    worker, _ = connect(tmp_path / "rendezvous.json", {"rank": 1}, 5.0)
    with pytest.raises(InputError, match="rank 1 is there already"):
        connect(tmp_path / "rendezvous.json", {"rank": 1}, 5.0)
    worker.close()


def test_file_of_another_attempt_leads_to_nobody(hub, tmp_path):
    told = json.loads((tmp_path / "rendezvous.json").read_text())
    (tmp_path / "stale.json").write_text(json.dumps(told | {"words": ["of", "another"]}))
    with pytest.raises(RankLost, match="rank 0 did not come within 1 s"):
        connect(tmp_path / "stale.json", {"rank": 1}, 1.0)


def test_worker_that_says_nothing_any_more_counts_as_gone(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "SILENT_S", 0.5)
    worker, _ = connect(tmp_path / "rendezvous.json", {"rank": 1}, 5.0)
    assert [hub.inbox.get(timeout=5)[1] is None for _ in range(2)] == [False, True]
    assert worker.read() is None
