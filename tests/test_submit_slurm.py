"""The driver on a real Slurm of four nodes: packed tasks, tasks of several nodes, and everything that goes wrong."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import PROBE, hpc_kit, set_options
from on_schedulers import SITE, SiteRun, same, undisturbed

ONE = ["resources.walltime=00:02:00"]
TRAINED = ["seeds=[0]", "resources.walltime=00:02:00", "train.epochs=60"]


def test_two_nodes_of_two_ranks_train_to_the_losses_of_one(slurm, tmp_path):
    over = ["seeds=[0]", "resources.nodes=2", "resources.ranks_per_node=2", "resources.walltime=00:02:00"]
    run = SiteRun(tmp_path).train(*over)
    run.end()
    run.done_once()
    same(run.losses(), undisturbed(*over), exactly=False)
    log = next(run.path.glob("tasks/*/log.txt")).read_text()
    assert "4 ranks (srun)" in log
    assert run.blocks()[-1]["evidence"].endswith("gpua[001-002]")
    assert slurm.jobs() == []


def test_twelve_tasks_are_packed_over_four_nodes(slurm, tmp_path):
    seeds = f"seeds={list(range(12))}"
    run = SiteRun(tmp_path).probe(seeds, "resources.cpus_per_rank=5", "resources.walltime=00:05:00", "probe.steps=2")
    run.end()
    run.done_once()
    started = [line["job"] for line in run.ledger() if line["state"] == "started"]
    assert len(set(started)) == 4 and {started.count(job) for job in started} == {3}
    assert slurm.jobs() == []


def test_dead_node_is_named_and_its_task_goes_on_elsewhere(slurm, tmp_path):
    run = SiteRun(tmp_path).probe(*ONE)
    job = run.job()
    run.until_further()
    slurm.kill_node(1)
    run.end()
    run.counted_once()
    [failure] = run.ends()[:-1]
    assert (failure["state"], failure["again"]) == ("node_failure", True)
    assert f"a node of its block {job} failed" in failure["reason"] and "NODE_FAIL" in failure["evidence"]
    assert (
        f"started: attempt 2, after node_failure: a node of its block {job}" in (tmp_path / "driver.log").read_text()
    )


def test_dead_node_of_a_task_of_two_is_named_although_srun_ends_with_an_exit_code(slurm, tmp_path):
    run = SiteRun(tmp_path).probe("resources.nodes=2", "probe.steps=100")
    job = run.job()
    run.until_further(1)
    slurm.declare_dead(2)
    run.end()
    run.counted_once()
    [failure] = run.ends()[:-1]
    assert (failure["state"], failure["again"]) == ("node_failure", True), f"{failure}"
    assert "Node failure" in next(run.path.glob("tasks/*/log.txt")).read_text()
    assert f"a node of its block {job} failed" in failure["reason"] and "NODE_FAIL" in failure["evidence"]


def test_killed_worker_pool_is_not_called_preempted(slurm, tmp_path):
    run = SiteRun(tmp_path).probe()
    run.job()
    run.until_further(1)
    name = "parsl.executors.high_throughput.process_worker_pool"
    pools = [p for p in psutil.process_iter(["cmdline"]) if name in (p.info["cmdline"] or ())]
    [pool] = [p for p in pools if any(str(run.path) in word for word in p.info["cmdline"])]
    pool.kill()
    run.end()
    run.counted_once()
    [end] = run.ends()[:-1]
    assert (end["state"], end["reason"]) == ("lost", "its worker pool died"), f"{end}"


def test_scancel_behind_our_back_is_named_and_left_to_the_user(slurm, tmp_path):
    run = SiteRun(tmp_path).probe(*ONE)
    job = run.job()
    run.until_further()
    subprocess.run(["scancel", job], check=True)
    run.end(code=1)
    [end] = run.ends()
    assert end["state"] == "cancelled" and "not by this run" in end["reason"]
    assert "CANCELLED by 0" in end["evidence"] and "resume" in end["hint"]
    assert slurm.jobs() == []
    run.resume().end()
    run.counted_once()


@pytest.mark.parametrize("partition", ["cpu-preempt", "cpu-cancel"])
def test_preempted_task_goes_on_from_its_checkpoint(slurm, tmp_path, partition):
    trains, run = partition == "cpu-preempt", SiteRun(tmp_path)
    run.train(*TRAINED, partition=partition) if trains else run.probe(*ONE, partition=partition)
    run.job()
    run.until_further()
    urgent = slurm.preempt()
    run.until(run.ends, "preemption")
    [end] = run.ends()
    assert (end["state"], end["again"]) == ("preempted", True) and "PREEMPTED" in end["evidence"], f"{end}"
    slurm.wait(urgent, ("RUNNING",))
    subprocess.run(["scancel", urgent], check=True)
    run.end()
    if trains:
        run.done_once()
        same(run.losses(), undisturbed(*TRAINED))
    else:
        run.counted_once()


def test_task_that_reaches_its_walltime_goes_on_and_says_how_far_it_was(slurm, tmp_path):
    run = SiteRun(tmp_path).probe("probe.steps=60", "resources.walltime=00:00:08", "resources.retries=20")
    run.job()
    follower = hpc_kit("logs", run.path, "-f", cwd=tmp_path).stdout  # ends with the run, not with an attempt
    run.end()
    run.counted_once()
    assert follower == next(run.path.glob("tasks/*/log.txt")).read_text() and "step 60/60" in follower
    ends = run.ends()
    assert len(ends) > 1 and {end["state"] for end in ends[:-1]} == {"time_limit"}
    assert ends[0]["hint"].startswith("raise resources.walltime") and "of 60 steps" in ends[0]["hint"]


def test_block_that_slurm_ends_for_time_is_named(slurm, tmp_path):
    run = SiteRun(tmp_path).probe(*ONE, "probe.steps=2000", "resources.retries=0")
    job = run.job()
    run.until_further()
    slurm.shorten(job, 1)
    run.end(code=1)
    [end] = run.ends()
    assert end["state"] == "time_limit" and f"its block {job} ran into its time limit" in end["reason"]
    assert "TIMEOUT" in end["evidence"] and "of 2000 steps" in end["hint"]


def test_killed_driver_leaves_nothing_behind_that_resume_does_not_find(slurm, tmp_path):
    run = SiteRun(tmp_path).probe(*ONE, "seeds=[0,1]", "probe.steps=100", "resources.memory_gb=12")
    run.job()
    run.until_further()
    run.driver.send_signal(signal.SIGKILL)
    run.driver.wait()
    assert len(slurm.jobs()) == 2
    states = hpc_kit("status", run.path, "--json", cwd=tmp_path).stdout
    assert '"interrupted"' in states
    run.resume().end()
    run.counted_once()
    assert slurm.jobs() == []


def test_cancel_without_a_driver_empties_the_queue(slurm, tmp_path):
    run = SiteRun(tmp_path).probe(*ONE, "probe.steps=6000")
    run.job()
    run.driver.send_signal(signal.SIGKILL)
    run.driver.wait()
    assert len(slurm.jobs()) == 1
    out = hpc_kit("cancel", run.path, cwd=tmp_path)
    assert out.returncode == 0 and "ended 1 blocks" in out.stdout
    assert slurm.jobs() == []


@pytest.mark.parametrize("pending", [False, True])
def test_cancel_leaves_nothing_in_the_queue(slurm, tmp_path, pending):
    if pending:
        slurm.wait(slurm.preempt(), ("RUNNING",))
    run = SiteRun(tmp_path).probe(*ONE, "probe.steps=6000")
    if pending:
        run.until(lambda: any(line["state"] == "queued" for line in run.blocks()), "a block")
        out = hpc_kit("status", run.path, "--refresh", cwd=tmp_path).stdout
        assert "queued" in out and ("Resources" in out or "Priority" in out or "None" in out)
    else:
        run.job()
        run.until_further()
    assert hpc_kit("cancel", run.path, cwd=tmp_path).returncode == 0
    run.end(code=1, seconds=60)
    assert {end["state"] for end in run.ends()} == {"cancelled"}
    assert [job for job in slurm.jobs() if slurm.state(job) != "RUNNING" or not pending] == []


def test_detached_driver_needs_no_terminal_and_refuses_a_second(slurm, tmp_path):
    words = ["submit", "--site", SITE, "probe", "--run", "run", "--detach"]
    out = hpc_kit(*words, *set_options([*PROBE, *ONE]), cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    pid = int(out.stdout.split("process ")[1].split()[0])
    assert os.getsid(pid) == pid
    second = hpc_kit("resume", "run", cwd=tmp_path)
    assert second.returncode == 2 and f"by process {pid}" in second.stderr
    run = SiteRun(tmp_path)
    run.until(lambda: [end for end in run.ends() if end["state"] == "done"], "the end")
    run.done_once()
    assert "1 of 1" not in (run.path / "driver.log").read_text()


def test_two_runs_at_a_time_keep_out_of_each_others_way(slurm, tmp_path):
    runs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        runs.append(SiteRun(tmp_path / name).probe(*ONE, f"probe.steps={6000 if name == 'a' else 100}"))
    jobs = [run.job() for run in runs]
    assert jobs[0] != jobs[1]
    hpc_kit("cancel", runs[0].path, cwd=tmp_path)
    runs[0].end(code=1)
    runs[1].end()
    runs[1].done_once()


def test_account_that_slurm_does_not_know_is_the_users_error(slurm, tmp_path):
    words = ["submit", "--site", SITE, "--account", "nobody", "probe", "--run", "run"]
    out = hpc_kit(*words, *set_options([*PROBE, *ONE]), cwd=tmp_path)
    assert out.returncode == 2
    assert "takes no block: sbatch:" in out.stderr and "Invalid account" in out.stderr
    assert slurm.jobs() == []


def test_blocks_that_cannot_start_work_end_the_run_with_their_words(slurm, tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text(f'extends: "{SITE}"\nname: broken\nsetup: ["module load nothing-of-that-name || exit 3"]\n')
    run = SiteRun(tmp_path, site=site).probe(*ONE)
    run.end(code=1)
    text = (tmp_path / "driver.log").read_text()
    assert "blocks in a row ended before they started a task" in text and "module: command not found" in text
    assert slurm.jobs() == []


def test_without_accounting_the_queue_tells_the_cause(slurm, tmp_path):
    with slurm.without_accounting():
        run = SiteRun(tmp_path).probe(*ONE)
        job = run.job()
        run.until_further()
        subprocess.run(["scancel", job], check=True)
        run.end(code=1)
    [end] = run.ends()
    assert end["state"] == "cancelled" and "squeue: CANCELLED" in end["evidence"]


def test_path_with_spaces_quotes_and_a_dollar_works(slurm, tmp_path):
    odd = tmp_path / 'my "$HOME" run; touch harm'
    Path(odd).mkdir()
    run = SiteRun(odd).probe(*ONE)
    run.end()
    run.done_once()
    assert not (tmp_path / "harm").exists() and not (odd / "harm").exists()


def test_used_charge_stands_beside_the_estimate(slurm, tmp_path):
    run = SiteRun(tmp_path).probe(*ONE)
    run.end()
    block = run.blocks()[-1]
    assert block["elapsed_s"] > 0 and run.blocks()[0]["hourly"] == pytest.approx(1 / 16)
    report = hpc_kit("report", run.path, cwd=tmp_path).stdout
    assert f"{block['elapsed_s'] / 3600 / 16:.3g} SU used" in report


@pytest.mark.parametrize("offset", [10800, -10800])
def test_node_whose_clock_is_wrong_loses_nothing_and_is_named(slurm, tmp_path, offset):
    """Every Python on the nodes has it three hours later, or earlier, than the driver and the file server."""
    wrong = tmp_path / "clock" / "sitecustomize.py"
    wrong.parent.mkdir()
    wrong.write_text(f"import time\nright = time.time\ntime.time = lambda: right() + {offset}\n")
    site = tmp_path / "site.yaml"
    setup = f"export PYTHONPATH={wrong.parent}:$PYTHONPATH"
    site.write_text(f'extends: "{SITE}"\nname: skewed\nsetup: ["{setup}"]\n')
    run = SiteRun(tmp_path, site=site).probe()
    run.end()
    run.counted_once()
    assert [end["state"] for end in run.ends()] == ["done"]
    said = (tmp_path / "driver.log").read_text()
    assert f"is 03:00:00 {'ahead of' if offset > 0 else 'behind'} the file server's" in said
    began = json.loads(next(run.path.glob("tasks/*/metrics.json")).read_text())["began_at"]
    assert abs(began - run.ledger()[0]["time"]) > 10_000  # it really was wrong


def test_secret_is_in_no_file_and_no_command_line(slurm, tmp_path, monkeypatch):
    secret = "4f1dc0ffee0123456789abcdef0123456789abcd"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    run = SiteRun(tmp_path).train("seeds=[0]", "resources.walltime=00:02:00", "track={wandb: offline}")
    lines = set()
    while run.driver.poll() is None:
        for process in psutil.process_iter(["cmdline"]):
            lines |= set(process.info["cmdline"] or ())
        time.sleep(0.1)
    run.end()
    assert any(str(run.path) in line for line in lines)
    assert not [line for line in lines if secret in line]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
