"""PBS Professional and OpenPBS: qsub, qstat, qselect, qdel. Implements Scheduler (scheduler.py).

The meaning of exit statuses, comments and substates is read from OpenPBS's sources (src/include/job.h,
src/server/svr_jobfunc.c, src/cmds/qstat.c). Checked against the stand-in of docs/testbed-standins.md, not against a
real server. JSON is not asked for: what PBS writes often is none (OpenPBS issues 1255 and 2541).
"""

import getpass
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpc_kit.sites.scheduler import Block, JobRecord, SchedulerError, State, ask
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.walltime import in_words

_ID = re.compile(r"^\d+(\[\d*\])?(\.[A-Za-z0-9_.-]+)?$")
_ATTRIBUTE = re.compile(r"^ {4}([\w.]+) = (.*)$")
_FOLDED = re.compile(r"\n\t")  # qstat breaks long values
_SAFE_PATH = re.compile(r"^/[A-Za-z0-9_./+=@-]+$")
_STATES: dict[str, State] = {
    "Q": "queued",
    "T": "queued",  # on its way to an execution host
    "W": "queued",  # waits for its start time
    "H": "held",
    "S": "held",  # suspended
    "U": "held",  # suspended: the owner of the workstation is back
    "B": "running",  # an array of which some run
    "R": "running",
    "E": "ending",
}
_FORGOTTEN = ("Unknown Job Id", "Job has finished")
_DELETED = 91  # substate: ended by a request to delete it
_FAILED = 93

# Negative exit statuses, set by PBS itself; job.h of OpenPBS. Those that are not here mean "failed".
_OVER_WALLTIME = -29
_OVER_MEMORY = (-26, -27, -31)  # vmem, mem, hpmem
_CHECKPOINTED = -12
_HOST_FAILED = (
    -3,  # could not be started, to be tried again
    -4,  # the host's daemon was started anew (JOB_EXEC_INITABT)
    -5,
    -6,
    -11,  # JOB_EXEC_RERUN
    -14,  # lost contact between the job's hosts
    -15,
    -20,  # lost contact to the job's first host
    -30,  # a host could not join the job
    -32,  # the host was installed anew or lost the job
)
_TERM, _KILL = 15, 9
_MEMORY = re.compile(r"exceeded resource v?mem|out of memory|\boom\b|cgroup mem\w* limit|memory limit", re.IGNORECASE)


class PBS:
    """The commands of PBS, found on PATH."""

    name = "pbs"

    def header(self, block: Block) -> list[str]:
        """Return the #PBS lines. `select` and `place` are left out where an option gives them.

        Raises InputError where PBS cannot express the path of the log: a directive has no quoting that survives
        until the log is copied, and ':' ends a host name.
        """
        log = str(block.log)
        if not _SAFE_PATH.match(log):
            raise InputError(f"{log}: PBS takes only letters, digits and _ . / + = @ - in the path of a log")
        chunk = f"select={block.nodes}:ncpus={block.cores}"
        if block.gpus:
            chunk += f":ngpus={block.gpus}"
        chunk += f":mpiprocs={block.ranks}"
        if block.memory_gb is not None and not block.whole_nodes:
            chunk += f":mem={block.memory_gb}gb"
        own = {"select": chunk, "place": "place=scatter:excl" if block.whole_nodes else "place=scatter"}
        given = [f"-l {text}" for name, text in own.items() if not _names(block.options, name)]
        account = [] if block.account is None else [f"-A {block.account}"]
        lines = [
            "-S /bin/bash",
            f"-N {block.name}",
            *given,
            f"-l walltime={in_words(block.walltime_s)}",
            f"-q {block.partition}",
            *account,
            "-j oe",
            f"-o {log}",
            "-r n",
            *block.options,
        ]
        return [f"#PBS {line}" for line in lines]

    def submit(self, script: Path, block: Block) -> str:
        answer = ask("qsub", str(script))
        words = answer.stdout.split()  # a site's hooks may print before the id
        if answer.returncode != 0 or not words or not _ID.match(words[-1]):
            raise SchedulerError(_said(answer))
        return words[-1]

    def records(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        jobs = _jobs(ids)
        return {asked: _record(asked, jobs[_number(asked)]) for asked in ids if _number(asked) in jobs}

    def find(self, prefix: str) -> list[str]:
        """Return the ids of this user's jobs, queued or running, whose names begin with `prefix`.

        Two commands: the tables that qstat prints for a user cut names and ids short.
        """
        answer = ask("qselect", "-u", getpass.getuser())
        if answer.returncode != 0:
            raise SchedulerError(_said(answer))
        ids = answer.stdout.split()
        jobs = _jobs(ids)
        found = [job for job in ids if _number(job) in jobs]
        return [
            job
            for job in found
            if str(jobs[_number(job)].get("Job_Name", "")).startswith(prefix)
            and jobs[_number(job)].get("job_state") in _STATES
        ]

    def cancel(self, ids: Sequence[str]) -> None:
        if ids:
            answer = ask("qdel", *ids)
            _check(answer, (*_FORGOTTEN, "Request invalid for state of job"))


def _names(options: Sequence[str], resource: str) -> bool:
    return any(re.match(rf"-l\s*{resource}=", option) for option in options)


def _number(job: str) -> str:
    """Return the id without the server's name, which commands may print short or in full."""
    return job.split(".")[0]


def _said(answer: subprocess.CompletedProcess[str]) -> str:
    text = " / ".join((answer.stderr.strip() or answer.stdout.strip()).splitlines())
    return f"{answer.args[0]}: exit code {answer.returncode}: {text[-500:] or 'no message'}"


def _check(answer: subprocess.CompletedProcess[str], harmless: Sequence[str]) -> None:
    """Raise SchedulerError unless all that went wrong is harmless."""
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    bad = [line for line in lines if not any(text in line for text in harmless)]
    if answer.returncode != 0 and (bad or not lines):
        raise SchedulerError(_said(answer))


def _jobs(ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what qstat says of the jobs, by number: its attributes, those of a list as "Resource_List.walltime"."""
    if not ids:
        return {}
    answer = ask("qstat", "-x", "-f", *ids)
    _check(answer, _FORGOTTEN)
    if not answer.stdout.strip():
        if answer.returncode == 0:
            raise SchedulerError("qstat: no answer")
        return {}
    jobs: dict[str, dict[str, str]] = {}
    for line in _FOLDED.sub("", answer.stdout).splitlines():
        if line.startswith("Job Id: "):
            jobs[_number(line.removeprefix("Job Id: ").strip())] = said = {}
        elif (pair := _ATTRIBUTE.match(line)) and jobs:
            said.setdefault(pair[1], pair[2].strip())  # a variable of the job may hold a line that looks like one
    if not jobs:
        raise SchedulerError(f"{answer.args[0]}: not its documented form: {answer.stdout[:200]!r}")
    return jobs


def _record(asked: str, job: dict[str, str]) -> JobRecord:
    letter, comment = job.get("job_state", "?"), job.get("comment", "")
    used, wanted = job.get("resources_used.walltime"), job.get("Resource_List.walltime")
    elapsed, limit = _seconds(used), _seconds(wanted)
    status, substate = _whole(job.get("Exit_status")), _whole(job.get("substate"))
    over = elapsed is not None and limit is not None and elapsed >= limit
    ended = letter in ("F", "X")
    state = _outcome(status, substate, comment, over) if ended else _STATES.get(letter, "unknown")
    evidence = f"qstat -x -f: job_state={letter}"
    for name, value in (("Exit_status", status), ("substate", substate), ("comment", comment or None)):
        evidence += "" if value is None else f" {name}={value}"
    if elapsed is not None:
        evidence += f" resources_used.walltime={used} of {wanted}"
    why = comment if state in ("queued", "held") else ""
    return JobRecord(asked, state, evidence, why=why, elapsed_s=elapsed)


def _outcome(status: int | None, substate: int | None, comment: str, over_walltime: bool) -> State:
    """Return what became of a finished job. PBS's own word goes before what the exit status looks like."""
    if "preempt" in comment.lower() or "terminated by Scheduler" in comment:
        return "preempted"
    if status == _OVER_WALLTIME or "exceeded resource walltime" in comment:
        return "time_limit"
    if status in _OVER_MEMORY or _MEMORY.search(comment):
        return "out_of_memory"
    if substate == _DELETED or "and terminated" in comment:
        return "cancelled"
    if status is None:
        return "failed" if substate == _FAILED else "unknown"
    if status == 0:
        return "done"
    if status < 0:
        return "preempted" if status == _CHECKPOINTED else "node_failure" if status in _HOST_FAILED else "failed"
    by_signal = status - 256 if status >= 256 else status - 128  # as PBS writes it, or as a shell does
    return "time_limit" if by_signal in (_TERM, _KILL) and over_walltime else "failed"


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.lstrip("-").isdigit() else None


def _seconds(clock: str | None) -> float | None:
    """Return the seconds of HH:MM:SS; PBS may print a walltime as plain seconds."""
    parts = (clock or "").split(":")
    if not all(part.isdigit() for part in parts):
        return None
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return float(seconds)
