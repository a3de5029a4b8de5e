"""The run directory and the task directory: every path in them has its name here and nowhere else."""

import json
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hpc_kit.files import remove_leftovers, write_atomically, write_json
from hpc_kit.lock import Lock
from hpc_kit.plan import SCHEMA, Plan, Task
from hpc_kit.spec.document import read_document
from hpc_kit.spec.errors import InputError, RankLost, WorkError
from hpc_kit.spec.job import Job
from hpc_kit.spec.site import Site
from hpc_kit.spec.yaml_text import read_yaml, write_yaml


@dataclass(frozen=True)
class TaskDir:
    """One task's directory: `task.yaml` goes in, records come out, `done.json` is written last. `home` is the
    directory of the run that the task belongs to."""

    path: Path
    home: Path

    task_file = property(lambda self: self.path / "task.yaml")
    fingerprint = property(lambda self: self.path / "fingerprint.json")
    epochs = property(lambda self: self.path / "epochs.jsonl")
    progress = property(lambda self: self.path / "progress.json")
    stopped = property(lambda self: self.path / "stopped.json")
    failed = property(lambda self: self.path / "failed.json")
    metrics = property(lambda self: self.path / "metrics.json")
    predictions = property(lambda self: self.path / "predictions.h5")
    parts = property(lambda self: self.path / "parts")
    best = property(lambda self: self.path / "best.pt")
    last = property(lambda self: self.path / "last.pt")
    log = property(lambda self: self.path / "log.txt")
    done = property(lambda self: self.path / "done.json")
    process = property(lambda self: self.path / "process.json")
    exit = property(lambda self: self.path / "exit.json")
    hostfile = property(lambda self: self.path / "hosts.txt")
    rendezvous = property(lambda self: self.path / "rendezvous.json")

    @property
    def lock(self) -> Lock:
        """Held by the process that works in this directory."""
        return Lock(self.path / "task.lock")

    @property
    def run(self) -> "RunDir":
        return RunDir(self.home)

    @property
    def splits(self) -> Path:
        """Where the run keeps its split manifests; tasks with equal splits share one file."""
        return self.home / "splits"

    def read_task(self) -> Task:
        """Read task.yaml. Raises InputError where it is missing, damaged or of another schema."""
        try:
            fields, _ = read_yaml(self.task_file)
        except InputError as error:
            raise InputError(f"{self.path}: not a task directory: {error}") from None
        return _checked(Task, fields, self.task_file)

    def is_done(self) -> bool:
        return self.done.exists()

    def read_process(self) -> dict[str, Any]:
        """Return what the last attempt's process was: attempt, pid, host, job, started_at; {} where none was."""
        return _read_json(self.process)

    def read_failed(self) -> dict[str, Any]:
        """Return the error that ended the last attempt, in the words of the rank that had it: error (its type),
        text; {} where none did."""
        return _read_json(self.failed)

    def write_failed(self, error: Exception) -> None:
        """Write down the error that ends this attempt. That another rank is gone gives way to what that one says."""
        lost = isinstance(error, RankLost)
        if not (lost and self.failed.exists()):
            kind = type(error).__name__
            text = str(error) if isinstance(error, (InputError, WorkError)) else f"{kind}: {error}"
            write_json(self.failed, {"error": kind, "text": text})

    def read_exit(self) -> dict[str, Any]:
        """Return how the last attempt that could say so ended: attempt, exit_code, ended; {} where none did."""
        return _read_json(self.exit)

    def reached(self) -> tuple:
        """Return what changes whenever the task has come further: times and sizes of last.pt and progress.json."""
        found = []
        for path in (self.last, self.progress):
            try:
                found.append((path.stat().st_mtime_ns, path.stat().st_size))
            except FileNotFoundError:
                found.append((0, 0))
        return tuple(found)

    def read_progress(self) -> dict[str, Any]:
        """Return how far the task has come: done, total, unit, score; {} where it has not said so yet."""
        return _read_json(self.progress)

    def write_progress(self, done: int, total: int, unit: str, score: dict[str, Any] | None = None) -> None:
        """Say how far the task has come. `score` is the best word on how good its work is so far: its name, value
        and unit, as in {"name": "val MAE", "value": 0.012, "unit": "eV"}."""
        write_json(self.progress, {"done": done, "total": total, "unit": unit, "score": score})

    def read_stopped(self) -> dict[str, Any]:
        """Return why the last attempt stopped early, cause and text; {} where it did not."""
        return _read_json(self.stopped)

    def write_stopped(self, cause: str, text: str) -> None:
        """Say why this attempt stops early: `cause` is one of errors.CAUSES, `text` is for people."""
        write_json(self.stopped, {"cause": cause, "text": text})

    def remove_leftovers(self) -> None:
        """Remove what killed attempts have left half-written. For the holder of the lock, who writes these files;
        process.json and exit.json are its supervisor's."""
        ours = (self.last, self.best, self.predictions, self.metrics, self.fingerprint, self.progress, self.done)
        remove_leftovers(*ours, self.stopped, self.failed, self.rendezvous)

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of log.txt that are not empty."""
        return last_lines(self.log, lines)


@dataclass(frozen=True)
class RunDir:
    """One submission's directory."""

    path: Path

    plan_file = property(lambda self: self.path / "plan.json")
    job_file = property(lambda self: self.path / "job.yaml")
    site_file = property(lambda self: self.path / "site.yaml")
    image_file = property(lambda self: self.path / "image.json")
    ledger = property(lambda self: self.path / "ledger.jsonl")
    parsl = property(lambda self: self.path / "parsl")
    blocks = property(lambda self: self.path / "blocks.jsonl")
    block_scripts = property(lambda self: self.path / "blocks")
    key_file = property(lambda self: self.path / "key")
    driver_log = property(lambda self: self.path / "driver.log")
    cancel_request = property(lambda self: self.path / "cancel")

    @property
    def lock(self) -> Lock:
        """Held by the driver: the one process that starts this run's tasks and writes its ledger."""
        return Lock(self.path / "driver.lock")

    @property
    def key(self) -> str:
        """Eight letters and digits that the names of this run's blocks begin with, and of no other run's."""
        return self.key_file.read_text().strip()

    def task(self, task_id: str) -> TaskDir:
        return TaskDir(self.path / "tasks" / task_id, self.path)

    def read_plan(self) -> Plan:
        """Read plan.json. Raises InputError where this is no run directory or one of another schema."""
        try:
            fields = json.loads(self.plan_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path}: not a run directory: it holds no plan.json") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.plan_file}: cannot be read: {error}") from None
        return _checked(Plan, fields, self.plan_file)

    def read_image(self) -> dict[str, Any]:
        """Return what image.json says of the image that the tasks run in; {} without one."""
        return _read_json(self.image_file)

    def read_site(self) -> Site:
        """Read the site this run was submitted to."""
        return read_document(self.site_file).check(Site)


def task_directory(folder: Path) -> TaskDir:
    """Return the task directory at `folder`, which is tasks/<id> of its run."""
    path = folder.absolute()
    return TaskDir(path, path.parent.parent)


def new_run_path(root: Path, name: str) -> Path:
    """Return a path for a new run, `root/<name>-<time>`, that does not exist yet."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (root / (stem + suffix) for suffix in ["", *(f"-{n}" for n in range(2, 100))])
    return next(path for path in candidates if not path.exists())


def create_run(path: Path, plan: Plan, job: Job, site: Site) -> RunDir:
    """Make the run directory, or open the one that is there if it holds the same tasks.

    Raises InputError where `path` holds something else. plan.json is written last: a directory without it
    was never submitted.
    """
    run = RunDir(path)
    if run.plan_file.exists():
        theirs, ours = ({task.id for task in p.tasks} for p in (run.read_plan(), plan))
        if theirs != ours:
            raise InputError(
                f"{path}: is a run of other tasks ({len(theirs - ours)} of its {len(theirs)} are not in this job);"
                " choose another --run"
            )
        return run
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not a run directory; choose another --run")
    try:
        for task in plan.tasks:
            folder = run.task(task.id)
            folder.path.mkdir(parents=True)
            folder.task_file.write_bytes(_yaml(task))  # nobody reads it before plan.json is there
        write_atomically(run.key_file, f"{uuid.uuid4().hex[:8]}\n".encode())
        write_atomically(run.job_file, _yaml(job))
        write_atomically(run.site_file, _yaml(site))
        write_json(run.plan_file, plan.model_dump())
    except OSError as error:
        raise InputError(f"{path}: the run directory cannot be made: {error.strerror}") from None
    return run


def find_runs(root: Path) -> list[RunDir]:
    """Return the run directories in `root`, oldest first."""
    plans = sorted(root.glob("*/plan.json"), key=lambda file: file.stat().st_mtime)
    return [RunDir(file.parent) for file in plans]


def last_lines(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file that are not empty, [] where it is not there."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-lines:]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def _yaml(model: BaseModel) -> bytes:
    return write_yaml(model.model_dump()).encode()


def _checked(model, fields, path: Path):
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version != SCHEMA:
        raise InputError(
            f"{path}: schema version {version!r}; this hpc_kit reads version {SCHEMA}. Finish the run with the"
            " hpc_kit that made it, or submit its job.yaml anew"
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = re.sub(r"[^\w.]", "", ".".join(str(part) for part in first["loc"]))
        raise InputError(f"{path}: damaged at {where}: {first['msg']}") from None
