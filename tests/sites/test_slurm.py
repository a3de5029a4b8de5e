"""Slurm's dialect: the header byte for byte, and every outcome as a real Slurm tells it."""

import dataclasses
import subprocess
import time
from pathlib import Path

import pytest

from hpc_kit.sites.scheduler import ENDED, Block, SchedulerError
from hpc_kit.sites.slurm import Slurm, _expanded

BLOCK = Block(
    name="hk-a1b2c3d4-0",
    nodes=1,
    ranks=2,
    cores=4,
    gpus=0,
    memory_gb=1,
    whole_nodes=False,
    walltime_s=300,
    partition="cpu",
    account="test-delta-gpu",
    options=(),
    log=Path("/dev/null"),
)


def queue(folder: Path, body: str, **changes) -> str:
    """Submit a block whose script is `body` and return its id."""
    block = dataclasses.replace(BLOCK, **({"log": folder / "my block.out"} | changes))
    script = folder / "block.sh"
    script.write_text("\n".join(["#!/bin/bash", *Slurm().header(block), body]) + "\n")
    return Slurm().submit(script, block)


def record(job: str, *states: str, seconds: float = 60.0):
    """Wait until Slurm says one of `states` of a job (an end, if none is given) and return its record."""
    deadline = time.monotonic() + seconds
    while (found := Slurm().records([job]).get(job)) is None or found.state not in (states or ENDED):
        assert time.monotonic() < deadline, found
        time.sleep(0.3)
    return found


def test_header_asks_for_exactly_this():
    block = dataclasses.replace(BLOCK, gpus=2, nodes=3, options=("--constraint=scratch",), log=Path("/a b/50%.out"))
    assert Slurm().header(block) == [
        "#SBATCH --job-name=hk-a1b2c3d4-0",
        '#SBATCH --output="/a b/50%%.out"',
        "#SBATCH --open-mode=append",
        "#SBATCH --partition=cpu",
        "#SBATCH --account=test-delta-gpu",
        "#SBATCH --nodes=3",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --mem=1G",
        "#SBATCH --time=00:05:00",
        "#SBATCH --no-requeue",
        "#SBATCH --constraint=scratch",
    ]


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("gpua[001-003,007]", ["gpua001", "gpua002", "gpua003", "gpua007"]),
        ("a1,b[08-10]", ["a1", "b08", "b09", "b10"]),
        ("None assigned", []),
    ],
)
def test_list_of_nodes_is_expanded(text, nodes):
    assert list(_expanded(text)) == nodes


def test_job_is_followed_to_its_end(slurm, tmp_path):
    job = queue(tmp_path, "echo $SLURM_JOB_NAME; sleep 8; exit 0")
    running = record(job, "running")
    assert running.nodes and running.started and Slurm().find("hk-a1b2c3d4") == [job]
    done = record(job)
    assert (done.state, done.exit_code) == ("done", 0) and done.elapsed_s >= 1 and done.ended >= done.started
    assert (tmp_path / "my block.out").read_text() == "hk-a1b2c3d4-0\n"
    assert Slurm().find("hk-a1b2c3d4") == []


def test_exit_code_and_cancelling_are_told(slurm, tmp_path):
    failed, cancelled = queue(tmp_path, "exit 3"), queue(tmp_path, "sleep 60")
    record(cancelled, "running")
    Slurm().cancel([cancelled, failed, "999999"])
    assert (record(failed).state, record(failed).exit_code) == ("failed", 3)
    assert record(cancelled).state == "cancelled" and "CANCELLED by 0" in record(cancelled).evidence


def test_time_limit_is_told(slurm, tmp_path):
    job = queue(tmp_path, "sleep 100")
    record(job, "running")
    slurm.shorten(job, 1)
    assert record(job).state == "time_limit"


def test_waiting_job_says_why(slurm, tmp_path):
    slurm.wait(slurm.preempt(), ("RUNNING",))
    job = queue(tmp_path, "true")
    waiting = record(job, "queued")
    deadline = time.monotonic() + 30
    while waiting.why in ("", "None", "(null)"):
        assert time.monotonic() < deadline
        waiting = record(job, "queued")
    assert waiting.why in ("Resources", "Priority")


def test_without_accounting_the_queue_is_asked(slurm, tmp_path):
    with slurm.without_accounting():
        job = queue(tmp_path, "exit 4")
        found = record(job)
    assert (found.state, found.exit_code) == ("failed", 4) and found.evidence.startswith("squeue: FAILED")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"account": "nobody"}, "Invalid account"),
        ({"partition": "nowhere"}, "invalid partition"),
        ({"nodes": 5}, "Node count"),
        ({"options": ("--nonsense",)}, "unrecognized option"),
    ],
)
def test_refusal_is_told_in_slurms_words(slurm, tmp_path, changes, message):
    with pytest.raises(SchedulerError, match=message):
        queue(tmp_path, "true", **changes)


def test_accounts_of_this_user_are_listed(slurm):
    assert "test-delta-gpu" in Slurm().accounts()


def test_missing_commands_are_an_answer_of_their_own(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SchedulerError, match="no such command here|env"):
        Slurm().find("hk-")


def test_job_gets_the_gpus_it_asked_for(slurm, tmp_path):
    job = queue(tmp_path, "echo $CUDA_VISIBLE_DEVICES", gpus=2, partition="gpuA100x4")
    record(job)
    assert (tmp_path / "my block.out").read_text().count(",") == 1


def test_jobs_of_another_user_are_not_ours(slurm, tmp_path):
    line = "sbatch --parsable -A test-delta-gpu -p cpu -J hk-a1b2c3d4-7 -o /dev/null --wrap 'sleep 30'"
    out = subprocess.run(["su", "hpcuser", "-c", line], capture_output=True, text=True, cwd="/")
    assert out.returncode == 0, out.stderr
    assert Slurm().find("hk-a1b2c3d4") == []
