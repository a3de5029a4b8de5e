"""The driver on the local site, with real processes: Parsl, cancelling, killing, resuming."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import PROBE, SMALL, hpc_kit, ledger_states, probe_run, set_options, small_run, start_hpc_kit

from hpc_kit import submit
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import read_lines
from hpc_kit.sites import attempt
from hpc_kit.spec.errors import InputError

SUBMIT = ["submit", "--site", "local", "quickstart", *set_options(SMALL)]
COUNT = ["submit", "--site", "local", "probe", *set_options(PROBE)]
LONG = ["--set", "probe.steps=6000", "--set", "seeds=[0,1,2]"]
TWO_RANKS = set_options(["probe.steps=6000", "resources.ranks_per_node=2"])


def wait_for(condition, what: str, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)
    return value


def epochs_written(run: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in run.glob("tasks/*/epochs.jsonl"))


def steps_done(run: Path) -> int:
    return sum(json.loads(path.read_text())["done"] for path in run.glob("tasks/*/progress.json"))


def processes_of(run: Path) -> list[int]:
    """Return every process that names the run in its command line or works in a task of it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(run) in word for word in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def submitted(tmp_path_factory) -> Path:
    """A run of three seeds, trained to its end; its folder holds the output of the command, `out`."""
    folder = tmp_path_factory.mktemp("submitted")
    out = hpc_kit(*SUBMIT, "--run", "run", cwd=folder)
    assert out.returncode == 0, out.stderr
    (folder / "out").write_text(out.stdout)
    return folder / "run"


def first_seed(run: Path) -> list[dict]:
    return read_lines(next(run.glob("tasks/quickstart-seed0-*/epochs.jsonl")))


def test_submit_runs_all_tasks_and_ends_with_the_table(submitted):
    assert sorted(ledger_states(submitted)) == ["done"] * 3 + ["started"] * 3 + ["submitted"] * 3
    table = (submitted.parent / "out").read_text().split("━┓")[-1]
    assert all(text in table for text in ("seed=0", "seed=2", "meV", "3 seeds", "mean ± std", f"run: {submitted}"))
    assert processes_of(submitted) == []

    again = hpc_kit(*SUBMIT, "--run", "run", cwd=submitted.parent)
    assert again.returncode == 0 and len(ledger_states(submitted)) == 9

    report = json.loads(hpc_kit("report", "run", "--json", cwd=submitted.parent).stdout)
    metrics = [json.loads(path.read_text()) for path in sorted(submitted.glob("tasks/*/metrics.json"))]
    zpve = report["seeds"][0]["targets"]["zpve"]
    assert zpve["mean"] == pytest.approx(sum(m["targets"]["zpve"]["test_mae"] for m in metrics) / 3)
    states = json.loads(hpc_kit("status", "run", "--json", cwd=submitted.parent).stdout)
    assert {task["state"] for task in states} == {"done"}


def test_run_gives_the_same_losses_as_submit(submitted, tmp_path):
    out = hpc_kit("run", "quickstart", *set_options([*SMALL, "seeds=[0]"]), "--run", "run", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    losses = [[line["train_loss"] for line in first_seed(run)] for run in (submitted, tmp_path / "run")]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_two_ranks_train_to_the_losses_of_one(submitted, tmp_path):
    out = hpc_kit(*SUBMIT, *set_options(["seeds=[0]", "resources.ranks_per_node=2"]), "--run", "run", cwd=tmp_path)
    assert out.returncode == 0, out.stdout + out.stderr
    one, two = first_seed(submitted), first_seed(tmp_path / "run")
    assert [line["world_size"] for line in one + two] == [1] * 4 + [2] * 4
    for field in ("train_loss", "val_mae"):
        assert [line[field] for line in two] == pytest.approx([line[field] for line in one], rel=1e-4)
    assert ledger_states(tmp_path / "run") == ["submitted", "started", "done"]


def test_preempted_ranks_stop_and_go_on(tmp_path):
    run = tmp_path / "run"
    driver = start_hpc_kit(*COUNT, *TWO_RANKS, "--run", "run", cwd=tmp_path)
    wait_for(lambda: steps_done(run) >= 2, "counting")
    os.kill(json.loads(next(run.glob("tasks/*/process.json")).read_text())["pid"], signal.SIGUSR1)
    wait_for(lambda: ledger_states(run)[2:] == ["preempted", "submitted", "started"], "the second attempt")
    before = steps_done(run)
    wait_for(lambda: steps_done(run) >= before + 2, "counting again")
    hpc_kit("cancel", "run", cwd=tmp_path)
    driver.wait(60)
    assert ledger_states(run)[-1] == "cancelled"
    assert "rank 1: " in (log := next(run.glob("tasks/*/log.txt")).read_text()) and "SIGUSR1 was sent" in log
    assert f"step {before}/" in log and log.count("\nstep 1/") == 1
    assert processes_of(run) == []


def test_killed_rank_fails_its_task_with_its_name(tmp_path):
    run = tmp_path / "run"
    options = set_options(["seeds=[0]", "train.epochs=500", "resources.ranks_per_node=2"])
    driver = start_hpc_kit(*SUBMIT, *options, "--run", "run", cwd=tmp_path)
    wait_for(lambda: epochs_written(run) >= 1, "training")
    launcher = json.loads(next(run.glob("tasks/*/process.json")).read_text())["pid"]
    psutil.Process(launcher).children()[1].kill()
    assert driver.wait(60) == 1
    assert read_lines(run / "ledger.jsonl")[-1]["state"] == "failed"
    log = next(run.glob("tasks/*/log.txt")).read_text()
    assert "rank 1 of 2 (host" in log and "rank 1 of 2 was killed by SIGKILL" in log
    assert processes_of(run) == []


def test_path_with_spaces_and_a_dollar_works(tmp_path):
    out = hpc_kit(*COUNT, "--set", "probe.steps=1", "--run", "my $HOME run; touch harm", cwd=tmp_path)
    assert out.returncode == 0, out.stdout + out.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my $HOME run; touch harm"]


def test_failed_task_is_reported_with_its_log_and_the_others_are_done(tmp_path):
    two = set_options(["seeds=[0,1]", "train.epochs=1"])
    run = small_run(tmp_path / "run", *two[1::2])
    broken = run.task(run.read_plan().tasks[1].id)
    broken.last.write_bytes(b"not a checkpoint")
    out = hpc_kit(*SUBMIT, *two, "--run", "run", cwd=tmp_path)
    assert out.returncode == 1
    assert "seed=1: failed" in out.stdout and "last.pt: is no whole checkpoint" in out.stdout
    assert "1 of 2 tasks are not done" in out.stderr
    assert sorted(ledger_states(tmp_path / "run"))[:2] == ["done", "failed"]

    broken.last.unlink()
    assert hpc_kit("resume", "run", cwd=tmp_path).returncode == 0
    assert ledger_states(tmp_path / "run")[6:] == ["submitted", "started", "done"]


@pytest.mark.parametrize("how", ["ctrl-c", "hangup", "cancel"])
def test_cancelling_ends_every_process_and_is_written_down(tmp_path, how):
    run = tmp_path / "run"
    driver = start_hpc_kit(*COUNT, *LONG, "--run", "run", cwd=tmp_path)
    wait_for(lambda: steps_done(run) >= 2, "counting")
    if how == "cancel":
        assert "cancelled" in hpc_kit("cancel", "run", cwd=tmp_path).stdout
    else:
        os.killpg(driver.pid, signal.SIGINT if how == "ctrl-c" else signal.SIGHUP)
    assert driver.wait(60) == 1
    assert processes_of(run) == []
    assert ledger_states(run)[-3:] == ["cancelled"] * 3
    states = {task["state"] for task in json.loads(hpc_kit("status", "run", "--json", cwd=tmp_path).stdout)}
    assert states == {"cancelled"}


def test_death_of_parsls_interchange_is_noticed_and_nothing_stays(tmp_path):
    run = tmp_path / "run"
    driver = start_hpc_kit(*COUNT, *LONG, "--run", "run", cwd=tmp_path)
    wait_for(lambda: steps_done(run) >= 1, "counting")
    [interchange] = [p for p in psutil.Process(driver.pid).children() if "interchange" in " ".join(p.cmdline())]
    interchange.kill()
    assert driver.wait(60) == 1
    assert ledger_states(run)[-3:] == ["lost"] * 3
    wait_for(lambda: processes_of(run) == [], "the end of the run's processes")


def test_worker_pool_that_is_killed_is_started_again(tmp_path):
    run = tmp_path / "run"
    driver = start_hpc_kit(*COUNT, "--set", "probe.steps=100", "--run", "run", cwd=tmp_path)
    wait_for(lambda: steps_done(run) >= 2, "counting")
    [pool] = [p for p in psutil.process_iter(["cmdline"]) if _is_pool_of(p, driver.pid)]
    pool.kill()
    assert driver.wait(120) == 0, (tmp_path / "driver.log").read_text()
    assert ledger_states(run) == ["submitted", "started", "lost", "submitted", "started", "done"]
    steps = re.findall(r"^step (\d+)/100$", next(run.glob("tasks/*/log.txt")).read_text(), re.MULTILINE)
    assert len(steps) == len(set(steps)) >= 99 and processes_of(run) == []


def _is_pool_of(process: psutil.Process, driver: int) -> bool:
    """Tell whether this is the worker pool (not the shell around it) that a driver has started."""
    words = process.info["cmdline"] or []
    return words[1:3] == ["-m", "hpc_kit.sites.pool"] and driver in [parent.pid for parent in process.parents()]


def test_second_driver_is_refused(tmp_path):
    driver = start_hpc_kit(*COUNT, *LONG, "--run", "run", cwd=tmp_path)
    wait_for(lambda: steps_done(tmp_path / "run") >= 1, "counting")
    try:
        second = hpc_kit("resume", "run", cwd=tmp_path)
        assert second.returncode == 2
        assert f"is being driven already, by process {driver.pid}" in second.stderr
    finally:
        hpc_kit("cancel", "run", cwd=tmp_path)
        driver.wait(60)


def test_killed_driver_then_resume_loses_nothing(tmp_path):
    run = tmp_path / "run"
    (tmp_path / "one.yaml").write_text("name: one\ndescription: a task at a time\nscheduler: local\nslots: 1\n")
    options = set_options(["seeds=[0,1]", "train.epochs=40"])
    one_by_one = ["submit", "--site", "one.yaml", "quickstart", *set_options(SMALL), *options]
    driver = start_hpc_kit(*one_by_one, "--run", "run", cwd=tmp_path)
    wait_for(lambda: any(run.glob("tasks/*/done.json")) and epochs_written(run) > 45, "one task done, one under way")
    done_before = {path: path.stat().st_mtime_ns for path in run.glob("tasks/*/*.json*") if "done" in path.name}
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    states = {task["state"] for task in json.loads(hpc_kit("status", "run", "--json", cwd=tmp_path).stdout)}
    assert states == {"done", "interrupted"}

    assert hpc_kit("resume", "run", cwd=tmp_path).returncode == 0
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done_before.items())
    assert epochs_written(run) == 2 * 40
    assert not {"failed", "preempted"} & {*ledger_states(run)}  # its own clean-up ended them
    undisturbed = hpc_kit(*SUBMIT, *options, "--run", "other", cwd=tmp_path)
    assert undisturbed.returncode == 0
    for path in run.glob("tasks/*/epochs.jsonl"):
        other = tmp_path / "other" / path.relative_to(run)
        losses = [[json.loads(line)["train_loss"] for line in p.open()] for p in (path, other)]
        assert losses[0] == losses[1]
    wait_for(lambda: processes_of(run) == [], "the end of the killed driver's processes")


def test_half_written_ledger_line_does_not_stop_a_resume(tmp_path):
    run = probe_run(tmp_path / "run", "probe.steps=1")
    run.ledger.write_text('{"time": 1, "task": "pro')
    assert hpc_kit("resume", "run", cwd=tmp_path).returncode == 0
    assert ledger_states(tmp_path / "run") == ["submitted", "started", "done"]


# A task that counts its attempts in last.pt and is preempted until `attempts` are made.
PREEMPTED = """
import os, sys, time
from pathlib import Path
from hpc_kit.runs.layout import task_directory
folder, attempts, gets_on = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
last = os.path.join(folder, "last.pt")
made = os.path.getsize(last) if os.path.exists(last) else 0
if made + 1 < attempts:
    if gets_on:
        open(last, "a").write("x")
    open(os.path.join(folder, "stopped.json"), "w").write('{"cause": "preempted", "text": "SIGTERM was sent"}')
    sys.exit(75)
task_directory(Path(folder)).write_done(2)
"""


def drive(run: RunDir, monkeypatch, code: str, *arguments: object):
    """Drive `run` with `code` in the place of a training; return the states of its tasks."""

    def command(site, task, folder, nodes, launched):
        return [sys.executable, "-c", code, str(folder.path), *map(str, arguments)]

    monkeypatch.setattr(attempt, "task_command", command)
    return submit.drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)


def test_preempted_task_is_started_again_until_it_is_done(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "seeds=[0]")
    [state] = drive(run, monkeypatch, PREEMPTED, 4, 1)
    assert (state.state, state.attempt) == ("done", 4)
    assert ledger_states(run.path) == ["submitted", "started", "preempted"] * 3 + ["submitted", "started", "done"]
    preempted = [line for line in read_lines(run.ledger) if line["state"] == "preempted"]
    assert {(line["reason"], line["exit_code"]) for line in preempted} == {("SIGTERM was sent", 75)}


def test_task_that_never_gets_further_is_not_started_for_ever(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "seeds=[0]")
    [state] = drive(run, monkeypatch, PREEMPTED, 4, 0)
    assert (state.state, state.attempt, state.ended) == ("preempted", 2, True)
    assert state.reason == "SIGTERM was sent (2 times in a row without getting further)"
    [state] = drive(run, monkeypatch, PREEMPTED, 4, 1)
    assert (state.state, state.attempt) == ("done", 6)


def test_preempted_task_is_taken_up_by_resume(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "seeds=[0]")
    ledger = submit.Ledger(run.ledger, [run.read_plan().tasks[0].id])
    for task_id in ledger.tasks:
        ledger.submit([task_id])
        ledger.end(task_id, "preempted", "SIGTERM was sent", 75, again=True)
    assert json.loads(hpc_kit("status", "run", "--json", cwd=tmp_path).stdout)[0]["state"] == "preempted"
    [state] = drive(run, monkeypatch, PREEMPTED, 1, 1)
    assert (state.state, state.attempt) == ("done", 2)


def test_cancelling_leaves_time_for_a_checkpoint_and_starts_nothing_again(tmp_path):
    run = probe_run(tmp_path / "run", "probe={steps: 600, step_s: 0.1, stop_s: 7}")
    folder = run.task(run.read_plan().tasks[0].id)

    def cancel():
        wait_for(folder.read_progress, "the task")
        run.cancel_request.touch()

    threading.Thread(target=cancel).start()
    [state] = submit.drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)
    assert (state.state, state.attempt, state.reason) == ("cancelled", 1, "on request")
    assert folder.read_stopped()["cause"] == "preempted" and folder.read_exit()["exit_code"] == 75
    assert ledger_states(run.path) == ["submitted", "started", "cancelled"]


# A task that counts its attempts and leaves the word it is given, as a launcher's exit code or nothing would not.
LEAVING = """
import json, sys
folder, code, word = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
if word:
    json.dump(json.loads(word[1]), open(f"{folder}/{word[0]}.json", "w"))
print("of the time given")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("code", "word", "state", "reason"),
    [
        (1, ("failed", '{"error": "WorkError", "text": "the loss is nan"}'), "failed", "the loss is nan"),
        (1, ("stopped", '{"cause": "time_limit", "text": "9 s are left"}'), "time_limit", "9 s are left"),
        (75, ("stopped", '{"cause": "time_limit", "text": "9 s are left"}'), "time_limit", "9 s are left"),
        (3, (), "failed", "of the time given"),
        (0, (), "failed", "it ended with exit code 0 and without done.json"),
    ],
)
def test_cause_is_what_the_task_wrote_down(tmp_path, monkeypatch, code, word, state, reason):
    run = small_run(tmp_path / "run", "seeds=[0]", "resources.retries=0")
    [found] = drive(run, monkeypatch, LEAVING, code, *word)
    assert found.state == state and found.reason.startswith(reason)


def test_task_that_is_run_by_hand_says_nothing_in_the_name_of_an_attempt(tmp_path):
    run = probe_run(tmp_path / "run", "seeds=[0]", "probe.ends=failed", "probe.steps=1")
    folder = run.task(run.read_plan().tasks[0].id)
    by_hand = hpc_kit("task", folder.path, cwd=tmp_path)
    assert by_hand.returncode == 1 and not folder.failed.exists()
    [found] = submit.drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)
    assert (found.state, found.reason) == ("failed", "it was asked to fail (probe.ends)")
    assert json.loads(folder.failed.read_text())["error"] == "WorkError"


def test_word_of_an_attempt_before_is_not_taken_for_this_ones(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "seeds=[0]", "resources.retries=0")
    late = ("stopped", '{"cause": "time_limit", "text": "9 s are left"}')
    assert drive(run, monkeypatch, LEAVING, 75, *late)[0].state == "time_limit"
    [found] = drive(run, monkeypatch, LEAVING, 3)
    assert (found.state, found.attempt) == ("failed", 2)


def test_resume_calls_nothing_failed_that_the_death_of_its_driver_ended(tmp_path, monkeypatch):
    run = small_run(tmp_path / "run", "seeds=[0,1,2]")
    ids = [task.id for task in run.read_plan().tasks]
    ledger = submit.Ledger(run.ledger, ids)
    ledger.submit(ids)
    markers = [{"exit_code": -15, "ended": "driver gone"}, {"exit_code": 75, "ended": "by itself"}, None]
    for task_id, marker in zip(ids, markers, strict=True):
        folder = run.task(task_id)
        ledger.start(task_id, {"host": "here", "job": None})
        gone = {"attempt": 1, "pid": 2**22 + 1, "host": "here", "job": None, "started_at": 0.0}
        folder.process.write_text(json.dumps(gone))
        if marker:
            folder.exit.write_text(json.dumps({"attempt": 1, **marker}))
    run.task(ids[1]).stopped.write_text('{"cause": "preempted", "text": "SIGTERM was sent"}')
    assert {state.state for state in drive(run, monkeypatch, PREEMPTED, 1, 1)} == {"done"}
    ends = [line for line in read_lines(run.ledger) if line["state"] not in ("submitted", "started", "done")]
    assert [(end["state"], end["reason"]) for end in ends] == [("lost", "its driver died before it ended")] * 3
    assert not any("hint" in end for end in ends)


@pytest.mark.parametrize("character", [*"[]*?{}'\n"])
def test_path_that_parsl_cannot_work_in_is_refused_at_once(tmp_path, character):
    run = small_run(tmp_path / f"my{character}run", "seeds=[0]")
    with pytest.raises(InputError, match="Parsl cannot work in a path with"):
        submit.drive(run, run.read_plan(), run.read_site(), lambda states: None)


def test_clock_of_a_node_is_named_once(tmp_path, monkeypatch):
    """The node's clock is two hours behind where the process is written down."""
    run, said, right = probe_run(tmp_path / "run", "seeds=[0,1]"), [], time.time
    monkeypatch.setattr(attempt, "task_command", lambda *_: ["true"])
    monkeypatch.setattr("hpc_kit.runs.process.time.time", lambda: right() - 7200)
    submit.drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False, say=said.append)
    assert said == [f"the clock of {socket.gethostname()} is 02:00:00 behind the file server's"]


NO_POOL = (
    "import sys\nif b'process_worker_pool' in open('/proc/self/cmdline', 'rb').read(): sys.exit('no licence left')"
)


def test_long_folder_for_temporary_files_does_not_kill_the_worker_pool(tmp_path):
    long = tmp_path / ("a-folder-for-temporary-files-with-a-long-name" * 3)
    long.mkdir()
    out = hpc_kit(*COUNT, "--set", "probe.steps=2", "--run", "run", cwd=tmp_path, TMPDIR=str(long))
    assert out.returncode == 0, out.stdout + out.stderr
    assert ledger_states(tmp_path / "run") == ["submitted", "started", "done"]
    assert list(long.iterdir()) == []


def test_worker_pools_that_die_are_reported_with_their_last_words(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_POOL)
    out = hpc_kit(*COUNT, "--set", "probe.steps=2", "--run", "run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert out.returncode == 1
    assert "3 worker pools in a row died; the last: the worker pool died with exit code 1" in out.stderr
    assert (
        out.stderr.count("SystemExit: no licence left") == 1 and out.stdout.count("SystemExit: no licence left") == 2
    )
