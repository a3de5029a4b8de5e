"""Slurm: sbatch, sacct, squeue, scancel. Implements Scheduler (scheduler.py).

The states are those of sacct's manual (https://slurm.schedmd.com/sacct.html#SECTION_JOB-STATE-CODES). Run against
Slurm 22.05, with accounting and without.
"""

import getpass
import re
from collections.abc import Iterator, Sequence
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
_SACCT = "jobid,state,exitcode,start,end,elapsedraw,nodelist,reason"
_SQUEUE = "JobID:|;,State:|;,exit_code:|;,StartTime:|;,EndTime:|;,TimeUsed:|;,NodeList:|;,Reason:|"


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
        names = ("--allocations", "--noheader", "--parsable2", f"--format={_SACCT}", f"--jobs={','.join(ids)}")
        done = ask("env", "SLURM_TIME_FORMAT=%s", "sacct", *names)
        if done.returncode:
            return {}
        return {r.id: r for r in _read("sacct", (line.split("|") for line in done.stdout.splitlines() if line))}

    def _from_queue(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """Ask squeue, which knows jobs of the last minutes too, and those that sacct has not heard of yet."""
        names = ("--noheader", "--states=all", f"--Format={_SQUEUE}", f"--jobs={','.join(ids)}")
        done = ask("env", "SLURM_TIME_FORMAT=%s", "squeue", *names)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise SchedulerError(f"squeue: {_words(done.stderr)}")
        lines = (line.rstrip("|").split("|;") for line in done.stdout.splitlines() if line.strip())
        return {record.id: record for record in _read("squeue", lines)}


def _read(command: str, lines: Iterator[list[str]]) -> Iterator[JobRecord]:
    for fields in lines:
        if len(fields) != 8 or not fields[0].strip().isdigit():
            raise SchedulerError(f"{command}: not its documented form: {fields}")
        job, state, code, start, end, elapsed, nodes, reason = (field.strip() for field in fields)
        word = state.split()[0].rstrip("+") if state else ""
        told = [
            f"{command}: {state}",
            *([f"exit code {code}"] if code.strip("0:") else []),
            *([nodes] if nodes else []),
        ]
        started, ended = _time(start), _time(end)
        known = _STATES.get(word, "unknown")
        yield JobRecord(
            id=job,
            state=known,
            evidence=", ".join(told),
            why=reason if known in ("queued", "held") else "",
            exit_code=_exit_code(code),
            started=started,
            ended=ended,
            elapsed_s=float(elapsed) if elapsed.isdigit() else _between(started, ended),
            nodes=tuple(_expanded(nodes)),
        )


def _exit_code(text: str) -> int | None:
    """Return 1 for "1:0", -9 for "0:9"; squeue writes the status of wait(2) instead: 256 and 9."""
    if ":" in text:
        code, number = text.split(":")
        return -int(number) if number not in ("", "0") else int(code)
    if not text.isdigit():
        return None
    return int(text) >> 8 if int(text) & 0x7F == 0 else -(int(text) & 0x7F)


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() and text != "0" else None


def _between(started: float | None, ended: float | None) -> float | None:
    return None if started is None or ended is None else max(0.0, ended - started)


def _expanded(nodes: str) -> Iterator[str]:
    """Yield gpua001, gpua002, gpua007 for "gpua[001-002,007]"."""
    for name, inner in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", nodes):
        if not inner:
            yield from [name] if name not in ("None assigned", "(null)") else []
            continue
        for part in inner.split(","):
            first, _, last = part.partition("-")
            yield from (f"{name}{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1))


def _quoted(path: Path) -> str:
    """Return a path as sbatch reads it from a script: in quotes, with % doubled, which begins its own words."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if re.search(r"[^\w./=%@+-]", text) else text


def _is_word(text: str) -> bool:
    return bool(text.strip()) and "Invalid job id" not in text


def _words(text: str) -> str:
    return " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.strip().splitlines())
