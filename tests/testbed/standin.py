"""A batch scheduler of one machine: a job table, really running jobs, time limits and ways to fail on demand.

`python standin.py FOLDER` is the daemon; the commands in pbs/ and cobalt/ read and write the same table. Not for:
what a command prints (pbs_commands.py, pbs_qstat.py, cobalt_commands.py). Standard library only: the commands run
under any python3.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = "HPC_KIT_STANDIN"  # the variable that tells the commands which folder is theirs
MARK = "HPC_KIT_STANDIN_JOB"  # in the environment of every process of a job
TICK_S = 0.03
EXITING_S = 0.15  # how long a job of Cobalt is seen in state exiting
ACTIVE = ("starting", "running", "killing")


def folder() -> Path:
    """Return the folder of the stand-in that this process belongs to."""
    return Path(os.environ[FOLDER])


def config(where: Path) -> dict:
    return json.loads((where / "config.json").read_text())


@contextlib.contextmanager
def table(where: Path) -> Iterator[dict]:
    """Open the job table for this process alone, {"next": int, "jobs": {id: job}}, and write back changes."""
    with (where / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = where / "jobs.json"
        before = path.read_text()
        data = json.loads(before)
        yield data
        after = json.dumps(data)
        if after != before:
            path.write_text(after)


def add(where: Path, **job) -> dict:
    """Put a job into the table and return it with its id; texts in `env` and paths may name the id as {id}."""
    with table(where) as data:
        number = data["next"]
        data["next"] += 1
        fresh = {
            "id": number,
            "state": "queued",
            "submitted": time.time(),
            "started": None,
            "ended": None,
            "exit": None,
            "reason": None,
            "by": None,
            "killed_at": None,
            "forced": False,
            "placed": [],
            "runs": 0,
        }
        data["jobs"][str(number)] = fresh | job
        return data["jobs"][str(number)]


def cobaltlog(job: dict, text: str) -> None:
    """Add a line to the job's cobaltlog where it has one, with the time as Cobalt writes it."""
    if job.get("cobaltlog"):
        stamp = time.strftime("%a %b %d %H:%M:%S %Y +0000 (UTC)", time.gmtime())
        with contextlib.suppress(OSError), open(job["cobaltlog"], "a", encoding="utf-8") as file:
            file.write(f"{stamp} {text}\n")


def members(mark: str) -> list[int]:
    """Return the processes of a job, whatever session they are in."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


class Daemon:
    """Starts queued jobs while nodes are free, watches the running ones, and does what the injection files ask."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.config = config(where)
        self.processes: dict[int, subprocess.Popen] = {}
        self.stopped = False

    def run(self) -> None:
        parent = os.getppid()
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        (self.where / "ready").touch()
        while not self.stopped and os.getppid() == parent:
            with table(self.where) as data:
                self.inject(data["jobs"])
                for job in list(data["jobs"].values()):
                    self.watch(job, data["jobs"])
                self.start_queued(data["jobs"])
            time.sleep(TICK_S)
        for number in self.processes:
            self.kill(number)

    def signal(self, number: int, which: int) -> None:
        for pid in members(f"{self.where}:{number}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

    def kill(self, number: int) -> None:
        """End all that a job has started, also what is started meanwhile."""
        while members(f"{self.where}:{number}"):
            self.signal(number, signal.SIGKILL)
            time.sleep(0.01)

    def inject(self, jobs: dict) -> None:
        """Do what lose-job, node-failure, preempt and out-of-memory ask for; each file holds the numbers of jobs."""
        for name in ("lose-job", "node-failure", "preempt", "out-of-memory"):
            path = self.where / name
            if not path.is_file():
                continue
            for word in path.read_text().split():
                number = word.split(".")[0]
                if number in jobs and (jobs[number]["state"] in ACTIVE or name == "lose-job"):
                    self.kill(int(number))
                    if name == "lose-job":
                        process = self.processes.pop(int(number), None)
                        if process is not None:
                            process.wait()
                        del jobs[number]
                    else:
                        jobs[number]["reason"] = name
            path.unlink()

    def watch(self, job: dict, jobs: dict) -> None:
        """Take one step with a job: its end, its time limit, a request to delete it."""
        now, process = time.time(), self.processes.get(job["id"])
        if job["state"] == "exiting" and now > job["ended"] + EXITING_S:
            self.leave(job, jobs)
        if process is None:
            return
        if job["state"] == "starting":
            job["state"] = "running"
        code = process.poll()
        if code is not None:
            self.end(job, code)
        elif job["reason"] == "delete" and job["killed_at"] is None:
            self.ask_to_end(job)
        elif job["state"] == "running" and now - job["started"] > job["limit_s"] / self.config["speed"]:
            job["reason"] = "limit"
            cobaltlog(job, "Info: maximum execution time exceeded; initiating job termination")
            self.ask_to_end(job)
        elif job["killed_at"] is not None and now > job["killed_at"] + self.config["grace"] and not job["forced"]:
            job["forced"] = True
            self.signal(job["id"], signal.SIGKILL)

    def ask_to_end(self, job: dict) -> None:
        job["killed_at"], job["state"] = time.time(), "killing"
        self.signal(job["id"], signal.SIGTERM)

    def end(self, job: dict, code: int) -> None:
        """Write down how a job's script ended, and what is left of it; end what it left behind."""
        self.kill(job["id"])
        del self.processes[job["id"]]
        again = job["reason"] in ("node-failure", "preempt") and job["rerun"]
        if again:
            job.update(state="queued", reason=None, started=None, placed=[], pid=None)
            return
        job.update(exit=code, ended=time.time(), state="exiting")
        if job["reason"] is None:
            text = f"task completed normally with an exit code of {code if code >= 0 else 128 - code}"
            cobaltlog(job, f"Info: {text}; initiating job cleanup and removal")
        elif job["reason"] == "node-failure":
            text = "task completed normally with an exit code of None; initiating job cleanup and removal"
            cobaltlog(job, f"Info: {text}")
        if job.get("spool") and job["reason"] != "node-failure":
            if job["reason"] == "limit":
                used = int((job["ended"] - job["started"]) * self.config["speed"])
                with open(job["spool"], "a", encoding="utf-8") as file:
                    file.write(f"=>> PBS: job killed: walltime {used} exceeded limit {int(job['limit_s'])}\n")
            if job["spool"] != job["stdout"]:
                with contextlib.suppress(OSError):
                    Path(job["stdout"]).write_bytes(Path(job["spool"]).read_bytes())

    def leave(self, job: dict, jobs: dict) -> None:
        """PBS keeps a finished job's history, Cobalt forgets it."""
        if self.config["dialect"] == "cobalt":
            del jobs[str(job["id"])]
        else:
            job["state"] = "finished"

    def start_queued(self, jobs: dict) -> None:
        taken = {node for job in jobs.values() if job["state"] in ACTIVE for node in job["placed"]}
        free = [node for node in range(1, self.config["nodes"] + 1) if node not in taken]
        for job in jobs.values():
            if job["state"] == "queued" and len(free) >= job["nodes"]:
                job["placed"], free = free[: job["nodes"]], free[job["nodes"] :]
                self.start(job)

    def start(self, job: dict) -> None:
        names = [self.config["node_name"] or node_name(node) for node in job["placed"]]
        nodefile = self.where / "nodefiles" / str(job["id"])
        nodefile.write_text("".join(f"{name}\n" * job["per_node"] for name in names))
        environment = os.environ | job["env"] | {job["nodefile"]: str(nodefile), MARK: f"{self.where}:{job['id']}"}
        job.update(started=time.time(), state="starting", runs=job["runs"] + 1)
        cobaltlog(job, "Command: " + " ".join(f"'{word}'" for word in job["argv"]))
        try:
            self.processes[job["id"]] = self.process(job, environment)
        except OSError as error:
            cobaltlog(job, f"ERROR: execution failure; initiating job cleanup and removal ({error})")
            job.update(exit=-1, ended=time.time(), state="exiting", reason="not started")

    def process(self, job: dict, environment: dict[str, str]) -> subprocess.Popen:
        with contextlib.ExitStack() as files:
            out = files.enter_context(open(job.get("spool") or job["stdout"], "wb"))
            return subprocess.Popen(
                job["argv"],
                cwd=job["cwd"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out if job["stderr"] is None else files.enter_context(open(job["stderr"], "wb")),
                start_new_session=True,
            )


def node_name(number: int) -> str:
    return f"x{number:03d}"


if __name__ == "__main__":
    Daemon(Path(sys.argv[1])).run()
