"""What the driver wants of a batch scheduler, and what a block asks of it. One file a scheduler implements it.

Not for: Parsl (provider.py) or what a job's end means for a task (outcome.py).
"""

import contextlib
import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

State = Literal[
    "queued",
    "held",
    "running",
    "ending",
    "done",
    "failed",
    "out_of_memory",
    "time_limit",
    "node_failure",
    "preempted",
    "cancelled",
    "forgotten",
    "unknown",
]
ENDED = ("done", "failed", "out_of_memory", "time_limit", "node_failure", "preempted", "cancelled", "forgotten")
FORGOTTEN_AFTER = 3  # so many answers in a row without a word of a job: it is gone
COMMAND_TIMEOUT_S = 60.0
# What a job of a scheduler leaves in the environment of all that is started in it. Slurm's commands read much of it
# as options: a block asked for from inside another job would have that job's size. What is kept tells how the
# scheduler is reached.
_OF_A_JOB = ("SLURM", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "PBS_", "COBALT_")
_OF_RANKS = ("PMI_", "PMIX_", "PALS_", "OMPI_", "PRTE_", "HYDRA_", "HPC_KIT_RANK", "HPC_KIT_SIZE", "HPC_KIT_LOCAL_")
_OF_A_BLOCK = ("HPC_KIT_BLOCK_", "HPC_KIT_JOB", "HPC_KIT_ATTEMPT", "HPC_KIT_DEADLINE", "PARSL_")
_OF_ITS_GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_KEPT = ("SLURM_CONF", "SLURM_JWT", "PBS_CONF_FILE", "PBS_EXEC", "PBS_HOME", "PBS_SERVER", "COBALT_CONFIG_FILES")
_INSIDE = ("SLURM_JOB_ID", "PBS_JOBID", "COBALT_JOBID")


class SchedulerError(Exception):
    """The scheduler did not answer, or not in its documented form. What is known stays as it was."""


@dataclass(frozen=True)
class JobRecord:
    """What a scheduler says of one of its jobs.

    `evidence` is what it said, in its own words, with the command that asked; `why` is why a queued job waits;
    `elapsed_s` is what the scheduler counts as used. `earlier` is how the job ended before, where the scheduler has
    queued it again by itself.
    """

    id: str
    state: State
    evidence: str
    why: str = ""
    elapsed_s: float | None = None
    earlier: "JobRecord | None" = None


@dataclass(frozen=True)
class Block:
    """What one block asks for: `cores`, `gpus` and `memory_gb` are of one node; with `whole_nodes` all that it has.

    `ranks` is how many processes of a task a node takes. `options` are given to the scheduler as they stand. `name`
    holds only letters, digits and '-'.
    """

    name: str
    nodes: int
    ranks: int
    cores: int
    gpus: int
    memory_gb: int | None
    whole_nodes: bool
    walltime_s: int
    partition: str
    account: str | None
    options: tuple[str, ...]
    log: Path


class Scheduler(Protocol):
    """One dialect. Every call is one command, with a timeout; all raise SchedulerError."""

    name: str

    def header(self, block: Block) -> list[str]:
        """Return the lines of a block's script, after the shebang, that ask for what `block` says. Pure."""

    def submit(self, script: Path, block: Block) -> str:
        """Queue the script and return the job's id."""

    def records(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """Return what is known of the jobs, in one call; a job that the scheduler has forgotten is not in it."""

    def find(self, prefix: str) -> list[str]:
        """Return the ids of this user's jobs, queued or running, whose names begin with `prefix`."""

    def cancel(self, ids: Sequence[str]) -> None:
        """End the jobs; ids that have ended already are no error."""


class Followed:
    """Jobs, and what their scheduler last said of each: an end is not taken back; a job that it forgets has ended,
    unless it remembers."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler
        self.records: dict[str, JobRecord] = {}
        self._missed: Counter[str] = Counter()  # answers in a row in which a job was not
        self._asked: dict[str, float] = {}  # when ask_again last did

    def ask(self, jobs: Sequence[str]) -> None:
        """Ask once for all `jobs`. Raises SchedulerError; what is known stays."""
        found = self._scheduler.records(jobs) if jobs else {}
        for job in jobs:
            told = found.get(job)
            silent = told is None or told.state == "unknown"
            self._missed[job] = self._missed[job] + 1 if silent else 0
            if self._missed[job] >= FORGOTTEN_AFTER and not self.is_over(job):
                known = "does not know it any more" if job in self.records else "took it and has never shown it"
                told = JobRecord(job, "forgotten", told.evidence if told else f"{self._scheduler.name} {known}")
            if told and (told.state in ENDED or not self.is_over(job) or (self._is_forgotten(job) and not silent)):
                self.records[job] = told

    def ask_again(self, job: str, every_s: float) -> JobRecord | None:
        """Ask about one job, unless that was done less than `every_s` ago, and return what is known of it.

        Where nothing answers, what is known stays.
        """
        now = time.monotonic()
        if now - self._asked.get(job, -math.inf) >= every_s:
            self._asked[job] = now
            with contextlib.suppress(SchedulerError):
                self.ask([job])
        return self.records.get(job)

    def open(self, jobs: Iterable[str]) -> list[str]:
        """Return those of `jobs` of which the scheduler may have more to say."""
        return [job for job in jobs if not self.is_over(job) or self._is_forgotten(job)]

    def _is_forgotten(self, job: str) -> bool:
        return job in self.records and self.records[job].state == "forgotten"

    def is_over(self, job: str) -> bool:
        """Tell whether the scheduler has said that a job has ended."""
        return job in self.records and self.records[job].state in ENDED


def ask(*argv: str, timeout: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a scheduler's command without a shell and return it, whatever its exit code.

    It sees nothing of a job that this process may be in. Raises SchedulerError where the command is not there or does
    not answer in time.
    """
    try:
        return subprocess.run(
            argv,
            env=outside_a_job(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except FileNotFoundError:
        raise SchedulerError(f"{argv[0]}: no such command here") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerError(f"{argv[0]}: {error}") from None


def outside_a_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without what it has from a job that it stands in: sizes, options, ranks, GPUs.

    What a user means to give a block is in the site file.
    """
    dropped = (*_OF_A_JOB, *_OF_RANKS, *_OF_A_BLOCK)
    if any(name in environment for name in _INSIDE):
        dropped += _OF_ITS_GPUS
    return {name: text for name, text in environment.items() if name in _KEPT or not name.startswith(dropped)}
