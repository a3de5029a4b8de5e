"""Slurm: sbatch, sacct, squeue, scancel. Implements Scheduler (scheduler.py).

The states are those of sacct's manual (https://slurm.schedmd.com/sacct.html#SECTION_JOB-STATE-CODES). Run against
Slurm 22.05, with accounting and without.
"""

import getpass
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hpc_kit.sites.scheduler import Block, JobRecord, SchedulerError, State, ask
from hpc_kit.spec.walltime import in_words

AT_ONCE = 200  # ids in one call: a command line has an end
_STATES: dict[str, State] = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_FED": "queued",
    "REQUEUE_HOLD": "held",
    "SPECIAL_EXIT": "held",
    "RESV_DEL_HOLD": "held",
    "SUSPENDED": "held",
    "STOPPED": "held",
    "RUNNING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "ending",
    "COMPLETING": "ending",
    "COMPLETED": "done",
    "FAILED": "failed",
    "LAUNCH_FAILED": "failed",
    "RECONFIG_FAIL": "failed",
    "REVOKED": "cancelled",
    "CANCELLED": "cancelled",
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "PREEMPTED": "preempted",
}
_SACCT = "jobid,jobname,state,exitcode,elapsedraw,nodelist,reason"
_SQUEUE = "JobID:|;,Name:|;,State:|;,exit_code:|;,TimeUsed:|;,NodeList:|;,Reason:|"
# Of a job that is asked for by id sacct looks back to 1970 or to midnight, by its version; some sites refuse to look
# back further than two months.
_SINCE = "now-30days"
# What a step may say of a job that Slurm calls COMPLETED because its script ended with 0.
_BEHIND_COMPLETED = ("node_failure", "out_of_memory", "time_limit", "preempted", "cancelled")


class Slurm:
    """The commands of Slurm, found on PATH."""

    name = "slurm"

    def header(self, block: Block) -> list[str]:
        """Return the #SBATCH lines. A block is never queued anew by Slurm: what runs again is the driver's to
        decide."""
        size = (
            ["--exclusive", "--mem=0"] if block.whole_nodes else [f"--mem={block.memory_gb}G"] * bool(block.memory_gb)
        )
        options = [
            f"--job-name={block.name}",
            f"--output={_quoted(block.log)}",
            "--open-mode=append",
            *([f"--partition={block.partition}"] if block.partition else []),
            *([f"--account={block.account}"] if block.account else []),
            f"--nodes={block.nodes}",
            f"--ntasks-per-node={block.ranks}",
            f"--cpus-per-task={block.cores // block.ranks}",
            *([f"--gpus-per-node={block.gpus}"] if block.gpus else []),
            *size,
            f"--time={in_words(block.walltime_s)}",
            "--no-requeue",
            *block.options,
        ]
        return [f"#SBATCH {option}" for option in options]

    def submit(self, script: Path, block: Block) -> str:
        done = ask("sbatch", "--parsable", str(script))
        job = done.stdout.strip().partition(";")[0]
        if done.returncode or not job.isdigit():
            raise SchedulerError(f"sbatch: {_words(done.stderr or done.stdout)}")
        return job

    def records(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        found = {}
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            known = self._from_accounting(some)
            missing = [job for job in some if job not in known]
            found |= known | (self._from_queue(missing) if missing else {})
        return found

    def find(self, prefix: str) -> list[str]:
        done = ask("squeue", "--noheader", "--me", "--format=%i %j")
        if done.returncode:
            raise SchedulerError(f"squeue: {_words(done.stderr)}")
        pairs = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
        return [job for job, name in pairs if name.startswith(prefix)]

    def cancel(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), AT_ONCE):
            done = ask("scancel", *ids[start : start + AT_ONCE])
            if done.returncode and "already completing or completed" not in done.stderr and _is_word(done.stderr):
                raise SchedulerError(f"scancel: {_words(done.stderr)}")

    def accounts(self) -> list[str] | None:
        """Return the accounts this user may charge; None where Slurm keeps none or does not answer."""
        user = f"user={getpass.getuser()}"
        try:
            done = ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", user, "format=account")
        except SchedulerError:
            return None
        return None if done.returncode else sorted({*done.stdout.split()})

    def _from_accounting(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """Ask sacct; {} where the site keeps no accounts, or they cannot be reached now."""
        names = ("--duplicates", "--noheader", "--parsable2", f"--starttime={_SINCE}", f"--format={_SACCT}")
        done = ask("sacct", *names, f"--jobs={','.join(ids)}")
        if done.returncode:
            return {}
        return _read("sacct", (line.split("|") for line in done.stdout.splitlines() if line))

    def _from_queue(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """Ask squeue, which knows jobs of the last minutes too, and those that sacct has not heard of yet."""
        names = ("--noheader", "--states=all", f"--Format={_SQUEUE}", f"--jobs={','.join(ids)}")
        done = ask("squeue", *names)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise SchedulerError(f"squeue: {_words(done.stderr)}")
        lines = (line.rstrip("|").split("|;") for line in done.stdout.splitlines() if line.strip())
        return _read("squeue", lines)


def _read(command: str, lines: Iterable[list[str]]) -> dict[str, JobRecord]:
    """Return the records of jobs from lines of jobs and their steps; a job that was queued again comes twice."""
    found: dict[str, JobRecord] = {}
    names: dict[str, str] = {}
    for fields in lines:
        job, _, step = fields[0].strip().partition(".")
        if len(fields) != 7 or not job.isdigit() or (step and job not in found):
            raise SchedulerError(f"{command}: not its documented form: {fields}")
        _, name, state, code, elapsed, nodes, reason = (field.strip() for field in fields)
        word = state.split()[0].rstrip("+") if state else ""
        known = _STATES.get(word, "unknown")
        if step:
            found[job] = _with_step(found[job], f"{job}.{step}", state, known)
            continue
        told = [
            f"{command}: {state}",
            *([f"exit code {code}"] if code.strip("0:") else []),
            *([nodes] if nodes else []),
        ]
        earlier = found.get(job) if names.get(job) == name else None  # an id may be given again after years
        seconds = _seconds(elapsed)
        if earlier and earlier.elapsed_s is not None:
            seconds = (seconds or 0.0) + earlier.elapsed_s
        why = reason if known in ("queued", "held") else ""
        found[job] = JobRecord(job, known, ", ".join(told), why=why, elapsed_s=seconds, earlier=earlier)
        names[job] = name
    return found


def _with_step(record: JobRecord, step: str, state: str, known: State) -> JobRecord:
    """Return what is known of a job once one of its steps is. srun cancels a step itself where one of its ranks
    fails; then no user stands behind the word."""
    if record.state != "done" or known not in _BEHIND_COMPLETED or state == "CANCELLED":
        return record
    return replace(record, state=known, evidence=f"{record.evidence}, and its step {step}: {state}")


def _seconds(text: str) -> float | None:
    """Return the seconds of sacct's plain number, or of squeue's days-hours:minutes:seconds without leading zeros."""
    days, _, clock = text.rpartition("-")
    parts = [days or "0", *clock.split(":")]
    if not all(part.isdigit() for part in parts):
        return None
    seconds = 0
    for part in parts[1:]:
        seconds = seconds * 60 + int(part)
    return float(seconds + 86400 * int(parts[0]))


def _quoted(path: Path) -> str:
    """Return a path as sbatch reads it from a script: in quotes, with % doubled, which begins its own words."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if re.search(r"[^\w./=%@+-]", text) else text


def _is_word(text: str) -> bool:
    return bool(text.strip()) and "Invalid job id" not in text


def _words(text: str) -> str:
    return " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.strip().splitlines())
