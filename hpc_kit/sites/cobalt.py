"""Cobalt, the scheduler of ALCF's ThetaGPU: qsub, qstat, qdel. Implements Scheduler (scheduler.py).

ThetaGPU and Cobalt were retired at the end of 2023. This file was written from the documentation and from Cobalt's
published sources (src/clients/POSIX/*.py, src/components/cqm.py) and checked against a stand-in
(docs/testbed-standins.md). It has never met a real Cobalt.

qstat forgets a job the moment it ends. What became of it is read from the job's cobaltlog, a file that qsub begins
with the job's id and the server goes on with; `records` finds it by that id, so it works in a new process too.
"""

import getpass
import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from hpc_kit.sites.scheduler import Block, JobRecord, SchedulerError, State, ask
from hpc_kit.spec.errors import InputError

_SAFE_PATH = re.compile(r"^/[^\s$]+$")
_HEADER = "JobID:State:RunTime:Location:JobName"
_STATES: dict[str, State] = {
    "queued": "queued",
    "starting": "running",
    "running": "running",
    "killing": "ending",
    "exiting": "ending",
    "user_hold": "held",
    "admin_hold": "held",
    "dep_hold": "held",
}
_JOB = re.compile(r"^Jobid: (\d+)\s*$", re.MULTILINE)
_STAMPED = re.compile(r"^(\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4} [+-]\d{4}) (?:\(\w+\) )?(.*)$")
_EXIT = re.compile(r"task completed normally with an exit code of (-?\d+|None)")
_ENDS: dict[str, State] = {
    "maximum execution time exceeded": "time_limit",
    "user delete requested": "cancelled",
    "user delete with signal": "cancelled",
    "preemption forced": "preempted",
    "job successfully preempted": "preempted",
    "execution failure; initiating job cleanup": "failed",
}


class Cobalt:
    """The commands of Cobalt, found on PATH; `folder` is where the logs of all blocks are."""

    name = "cobalt"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def header(self, block: Block) -> list[str]:
        """Return the #COBALT lines, which must directly follow the shebang, and one that joins stderr to stdout.

        Cobalt gives out whole nodes: cores, GPUs and memory of a block are not asked for. Raises InputError where
        Cobalt cannot express the path of the log: it splits its lines at blanks and fills in what follows a '$'.
        """
        log = str(block.log)
        if not _SAFE_PATH.match(log):
            raise InputError(f"{log}: Cobalt takes no blank and no '$' in the path of a log")
        if block.log.parent != self.folder:
            raise InputError(f"{log}: the logs of Cobalt's jobs are looked for in {self.folder}")
        account = [] if block.account is None else [f"-A {block.account}"]
        lines = [
            f"-n {block.nodes}",
            f"-q {block.partition}",
            f"-t {math.ceil(block.walltime_s / 60)}",
            *account,
            f"--jobname {block.name}",
            f"-O {block.log.with_suffix('')}",
            f"-o {log}",
            *block.options,
        ]
        return [*(f"#COBALT {line}" for line in lines), "exec 2>&1"]

    def submit(self, script: Path, block: Block) -> str:
        """Queue the script and return the job's id. Makes it executable: Cobalt runs the file itself."""
        if " " in str(script.absolute()):
            raise InputError(f"{script}: Cobalt takes no blank in the path of a script")
        script.chmod(script.stat().st_mode | 0o500)
        answer = ask("qsub", str(script))
        lines = answer.stdout.split()
        if answer.returncode != 0 or not lines or not lines[-1].isdigit():
            raise SchedulerError(_said(answer))
        return lines[-1]

    def records(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """Return what qstat says of the jobs, and for those that it has forgotten what their cobaltlogs say.

        No id is left out: of one without a trace the state is "unknown".
        """
        if not ids:
            return {}
        answer = ask("qstat", "--header", _HEADER, *ids)
        nobody = answer.returncode == 1 and not answer.stdout.strip() and not answer.stderr.strip()
        rows = {} if nobody else {row["JobID"]: row for row in _rows(answer)}
        return {job: _listed(rows[job]) if job in rows else _forgotten(job, self._history(job)) for job in ids}

    def find(self, prefix: str) -> list[str]:
        answer = ask("qstat", "--header", _HEADER, "-u", getpass.getuser())
        return [row["JobID"] for row in _rows(answer) if row["JobName"].startswith(prefix)]

    def cancel(self, ids: Sequence[str]) -> None:
        if ids:
            answer = ask("qdel", *ids)
            if answer.returncode != 0:
                raise SchedulerError(_said(answer))

    def _history(self, job: str) -> tuple[Path, str] | None:
        """Return the cobaltlog of a job, and the part of it that is about this job: two jobs may share one."""
        for path in sorted(self.folder.glob("*.cobaltlog")):
            parts = _JOB.split(path.read_text(encoding="utf-8", errors="replace"))[1:]
            texts = [text for number, text in zip(parts[::2], parts[1::2], strict=True) if number == job]
            if texts:
                return path, texts[-1]
        return None


def _said(answer: subprocess.CompletedProcess[str]) -> str:
    text = " / ".join((answer.stderr.strip() or answer.stdout.strip()).splitlines())
    return f"{answer.args[0]}: exit code {answer.returncode}: {text[-500:] or 'no message'}"


def _rows(answer: subprocess.CompletedProcess[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of qstat's table by column. Each reaches from its name to the next. Raises SchedulerError."""
    if answer.returncode != 0:
        raise SchedulerError(_said(answer))
    lines, names = answer.stdout.splitlines(), _HEADER.split(":")
    if len(lines) < 2 or lines[0].split() != names or set(lines[1]) - {"="}:
        raise SchedulerError(f"{answer.args[0]}: not the table that was asked for: {answer.stdout[:200]!r}")
    starts = [lines[0].index(name) for name in names]
    for line in lines[2:]:
        if line.strip():
            yield {
                name: line[a:b].strip() for name, a, b in zip(names, starts, [*starts[1:], len(line)], strict=True)
            }


def _listed(row: dict[str, str]) -> JobRecord:
    state = _STATES.get(row["State"], "unknown")
    return JobRecord(
        row["JobID"],
        state,
        f"qstat: State={row['State']} RunTime={row['RunTime']} Location={row['Location']}",
        why=row["State"] if state == "held" else "",
        elapsed_s=_seconds(row["RunTime"]),
    )


def _forgotten(job: str, history: tuple[Path, str] | None) -> JobRecord:
    """Return what the cobaltlog says of a job that qstat no longer lists. The last line that says an end counts."""
    if history is None:
        return JobRecord(job, "unknown", "it has left the queue and wrote no cobaltlog")
    path, text = history
    state: State = "unknown"
    started, ended, evidence = None, None, ""
    for line in text.splitlines():
        stamped = _STAMPED.match(line)
        message = stamped.group(2) if stamped else line
        when = _time(stamped.group(1)) if stamped else None
        if message.startswith("Command:"):
            started = when or started
        exited = _EXIT.search(message)
        said = next((end for words, end in _ENDS.items() if words in message), None)
        if exited:
            said = {"None": "node_failure", "0": "done"}.get(exited.group(1), "failed")
        if said is not None:
            state, ended, evidence = said, when, message
    if state == "unknown":
        evidence = "it has left the queue, and its cobaltlog does not say how it ended"
    elapsed = ended - started if started is not None and ended is not None else None
    return JobRecord(job, state, f"{path.name}: {evidence}", elapsed_s=elapsed)


def _time(text: str) -> float | None:
    """Return the time that Cobalt prints as `Mon Nov 23 19:00:00 2026 +0000 (UTC)`."""
    try:
        return datetime.strptime(text.split(" (")[0], "%a %b %d %H:%M:%S %Y %z").timestamp()
    except ValueError:
        return None


def _seconds(clock: str) -> float | None:
    parts = clock.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return None
    hours, minutes, seconds = map(int, parts)
    return float(3600 * hours + 60 * minutes + seconds)
