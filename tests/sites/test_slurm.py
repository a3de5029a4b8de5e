"""Slurm's dialect: the header byte for byte, and every outcome as a real Slurm tells it."""

import dataclasses
import subprocess
import time
from pathlib import Path

import pytest

from hpc_kit.sites.scheduler import ENDED, Block, Followed, SchedulerError, outside_a_job
from hpc_kit.sites.slurm import Slurm

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


def accounted(job: str):
    """Wait until a job has ended and accounting, which is later than the queue, has heard of it."""
    deadline = time.monotonic() + 60
    while not (found := record(job)).evidence.startswith("sacct"):
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


def test_job_is_followed_to_its_end(slurm, tmp_path):
    job = queue(tmp_path, f"echo $SLURM_JOB_NAME; until test -e {tmp_path}/go; do sleep 0.2; done; sleep 2; exit 0")
    running = record(job, "running")
    assert "gpua00" in running.evidence and Slurm().find("hk-a1b2c3d4") == [job]
    (tmp_path / "go").touch()
    done = record(job)
    assert done.state == "done" and done.elapsed_s >= 2
    assert (tmp_path / "my block.out").read_text() == "hk-a1b2c3d4-0\n"
    assert Slurm().find("hk-a1b2c3d4") == []


def test_exit_code_and_cancelling_are_told(slurm, tmp_path):
    failed, cancelled = queue(tmp_path, "exit 3"), queue(tmp_path, "sleep 60")
    record(cancelled, "running")
    Slurm().cancel([cancelled, failed, "999999"])
    assert record(failed).state == "failed" and "exit code 3:0" in record(failed).evidence
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
    assert found.state == "failed" and found.evidence.startswith("squeue: FAILED")


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


def answering(monkeypatch, folder: Path, **bodies: str) -> None:
    """Put commands first on PATH that do what `bodies` say, in the place of Slurm's."""
    for name, body in bodies.items():
        program = folder / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def test_completed_job_whose_step_was_cancelled_is_not_called_done(slurm, tmp_path):
    job = completed_with_cancelled_step(tmp_path)
    found = accounted(job)
    assert found.state == "cancelled", found
    assert f"COMPLETED, gpua001, and its step {job}.0: CANCELLED by" in found.evidence


def completed_with_cancelled_step(folder: Path) -> str:
    """Return a job whose step Slurm's accounting calls cancelled. On a busy machine it writes COMPLETED first, or
    FAILED for good, of 2 in 146 such steps."""
    for attempt in range(4):
        on = folder / f"on{attempt}"
        job = queue(folder, f"srun --ntasks=1 sh -c 'touch {on}; sleep 100'; exit 0")
        subprocess.run(f"until test -e {on}; do sleep 0.2; done", shell=True, check=True, timeout=60)
        subprocess.run(["scancel", f"{job}.0"], check=True)
        accounted(job)
        for _ in range(10):
            told = ["sacct", "--noheader", "--parsable2", f"--jobs={job}.0", "--format=State"]
            if "CANCELLED by" in subprocess.run(told, capture_output=True, text=True, check=True).stdout:
                return job
            time.sleep(0.5)
    raise AssertionError("Slurm called none of four cancelled steps cancelled")


def test_step_that_srun_itself_cancelled_leaves_its_job_done(slurm, tmp_path):
    body = "srun --ntasks=2 --kill-on-bad-exit=1 bash -c '[ $SLURM_PROCID = 1 ] && exit 3; sleep 60'; exit 0"
    found = accounted(queue(tmp_path, body))
    assert (found.state, found.evidence) == ("done", "sacct: COMPLETED, gpua001")


def test_job_that_slurm_queued_again_after_a_dead_node_says_so(monkeypatch, tmp_path):
    """The lines are those of Slurm 22.05; without --duplicates it leaves out the first two."""
    told = "17|hk-1|NODE_FAIL|1:0|40|gpua001|None\n17.batch|batch|CANCELLED||40|gpua001|\n"
    told += "17|hk-1|RUNNING|0:0|5|gpua002|None\n17.batch|batch|RUNNING|0:0|5|gpua002|"
    older = "17|somebody|NODE_FAIL|1:0|7|gpua009|None"
    body = f"[[ $* == *--duplicates* ]] && echo '{older}\n{told}' || tail -n2 <<< '{told}'"
    answering(monkeypatch, tmp_path, sacct=body)
    found = Slurm().records(["17"])["17"]
    assert (found.state, found.elapsed_s) == ("running", 45)
    assert (
        found.earlier.state == "node_failure" and found.earlier.evidence == "sacct: NODE_FAIL, exit code 1:0, gpua001"
    )


def test_job_of_yesterday_is_asked_for_from_before_midnight(monkeypatch, tmp_path):
    """Some versions look back to midnight only, and some sites refuse a window of years."""
    body = "[[ $* == *--starttime=now-30days* ]] && echo '17|hk-1|FAILED|1:0|40|gpua001|None'; exit 0"
    answering(monkeypatch, tmp_path, sacct=body, squeue=UNKNOWN)
    assert Slurm().records(["17"])["17"].state == "failed"


def test_failing_squeue_ends_nothing(monkeypatch, tmp_path):
    followed = Followed(Slurm())
    answering(monkeypatch, tmp_path, sacct="echo '17|hk-1|RUNNING|0:0|40|gpua001|None'")
    followed.ask(["17"])
    answering(monkeypatch, tmp_path, sacct="exit 1", squeue="echo 'slurm_load_jobs error: Timed out' >&2; exit 1")
    for _ in range(5):
        with pytest.raises(SchedulerError, match="squeue: slurm_load_jobs error: Timed out"):
            followed.ask(["17"])
    assert followed.records["17"].state == "running" and not followed.is_over("17")


def test_job_that_accounting_and_queue_have_forgotten_has_not_failed(monkeypatch, tmp_path):
    followed = Followed(Slurm())
    answering(monkeypatch, tmp_path, sacct="echo '17|hk-1|RUNNING|0:0|40|gpua001|None'")
    followed.ask(["17"])
    answering(monkeypatch, tmp_path, sacct="exit 0", squeue=UNKNOWN)
    for _ in range(3):
        assert not followed.is_over("17")
        followed.ask(["17"])
    assert followed.records["17"].state == "forgotten"
    assert followed.records["17"].evidence == "slurm does not know it any more"
    answering(monkeypatch, tmp_path, sacct="echo '17|hk-1|RUNNING|0:0|90|gpua001|None'")
    followed.ask(followed.open(["17"]))
    assert followed.records["17"].state == "running" and not followed.is_over("17")


def test_job_that_never_appears_is_told_apart(monkeypatch, tmp_path):
    answering(monkeypatch, tmp_path, sbatch="echo 17", sacct="exit 0", squeue=UNKNOWN)
    followed, job = Followed(Slurm()), queue(tmp_path, "true")
    for _ in range(3):
        followed.ask([job])
    assert followed.records[job].state == "forgotten"
    assert followed.records[job].evidence == "slurm took it and has never shown it"


# What a job of one's own may have around it, on an interactive node for example.
OUTER = {
    "SLURM_JOB_ID": "1",
    "SLURM_MEM_PER_CPU": "64000",
    "SLURM_GPUS_PER_NODE": "9",
    "SLURM_EXCLUSIVE": "user",
    "SLURM_DISTRIBUTION": "plane=7",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_CPU_BIND": "map_cpu:99",
    "SLURM_NTASKS_PER_NODE": "64",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_PARTITION": "nowhere",
    "SQUEUE_FORMAT": "%j",
    "PMI_RANK": "3",
    "CUDA_VISIBLE_DEVICES": "7",
}


def test_what_an_outer_job_left_behind_reaches_no_block_and_none_of_its_steps(slurm, tmp_path, monkeypatch):
    for name, text in OUTER.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("OF_THE_USER", "kept")
    names = "".join(f"[${{{name}-}}]" for name in ("PMI_RANK", "SLURM_MEM_PER_CPU", "CUDA_VISIBLE_DEVICES"))
    body = f"srun --ntasks=2 --mpi=none --export=ALL bash -c 'echo \"{names}$OF_THE_USER $SLURM_NTASKS\"'"
    found = record(queue(tmp_path, body))
    assert found.state == "done"
    assert (tmp_path / "my block.out").read_text() == "[][][]kept 2\n" * 2


def test_what_tells_how_a_scheduler_is_reached_is_kept_and_what_is_of_a_job_is_not():
    own = {"SLURM_CONF": "/etc/slurm.conf", "PBS_SERVER": "pbs01", "PATH": "/bin", "OMP_NUM_THREADS": "4"}
    inherited = OUTER | {"PBS_NODEFILE": "/a", "PBS_O_QUEUE": "b", "COBALT_JOBID": "1", "OMPI_COMM_WORLD_RANK": "0"}
    inherited |= {"HPC_KIT_RANK": "1", "HPC_KIT_BLOCK_END": "5", "HPC_KIT_DEADLINE": "5", "HPC_KIT_JOB": "7"}
    assert outside_a_job(inherited | own) == own
    assert outside_a_job({"CUDA_VISIBLE_DEVICES": "1"}) == {"CUDA_VISIBLE_DEVICES": "1"}  # the user's own choice
