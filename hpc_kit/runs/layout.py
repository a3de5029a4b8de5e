"""The run directory and the task directory: every path in them has its name here and nowhere else."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from hpc_kit.files import write_atomically, write_json
from hpc_kit.lock import Lock
from hpc_kit.plan import SCHEMA, Plan, Task
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job
from hpc_kit.spec.site import Site


@dataclass(frozen=True)
class TaskDir:
    """One task's directory: `task.yaml` goes in, records come out, `done.json` is written last."""

    path: Path

    task_file = property(lambda self: self.path / "task.yaml")
    fingerprint = property(lambda self: self.path / "fingerprint.json")
    epochs = property(lambda self: self.path / "epochs.jsonl")
    metrics = property(lambda self: self.path / "metrics.json")
    predictions = property(lambda self: self.path / "predictions.h5")
    best = property(lambda self: self.path / "best.pt")
    last = property(lambda self: self.path / "last.pt")
    log = property(lambda self: self.path / "log.txt")
    done = property(lambda self: self.path / "done.json")
    process = property(lambda self: self.path / "process.json")
    rendezvous = property(lambda self: self.path / "rendezvous.json")

    @property
    def lock(self) -> Lock:
        """Held by the process that works in this directory."""
        return Lock(self.path / "task.lock")

    @property
    def run(self) -> "RunDir":
        return RunDir(self.path.parent.parent)

    @property
    def splits(self) -> Path:
        """Where the run keeps its split manifests; tasks with equal splits share one file."""
        return self.run.path / "splits"

    def read_task(self) -> Task:
        """Read task.yaml. Raises InputError where it is missing, damaged or of another schema."""
        try:
            fields = yaml.safe_load(self.task_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{self.path}: not a task directory: {error}") from None
        return _checked(Task, fields, self.task_file)

    def is_done(self) -> bool:
        return self.done.exists()

    def started_attempt(self) -> int:
        """Return the number of the last attempt whose process was started, 0 where none was."""
        try:
            return json.loads(self.process.read_text())["attempt"]
        except FileNotFoundError:
            return 0

    def leader(self) -> int | None:
        """Return the pid of the process that the last attempt began with, which leads its session; None: none yet."""
        try:
            return json.loads(self.process.read_text())["pid"]
        except FileNotFoundError:
            return None

    def reached(self) -> tuple[int, int]:
        """Return what changes with every checkpoint: time and size of last.pt, zeros where there is none."""
        try:
            state = self.last.stat()
        except FileNotFoundError:
            return 0, 0
        return state.st_mtime_ns, state.st_size

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of log.txt that are not empty."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]


@dataclass(frozen=True)
class RunDir:
    """One submission's directory."""

    path: Path

    plan_file = property(lambda self: self.path / "plan.json")
    job_file = property(lambda self: self.path / "job.yaml")
    site_file = property(lambda self: self.path / "site.yaml")
    ledger = property(lambda self: self.path / "ledger.jsonl")
    parsl = property(lambda self: self.path / "parsl")
    cancel_request = property(lambda self: self.path / "cancel")

    @property
    def lock(self) -> Lock:
        """Held by the driver: the one process that starts this run's tasks and writes its ledger."""
        return Lock(self.path / "driver.lock")

    def task(self, task_id: str) -> TaskDir:
        return TaskDir(self.path / "tasks" / task_id)

    def read_plan(self) -> Plan:
        """Read plan.json. Raises InputError where this is no run directory or one of another schema."""
        try:
            fields = json.loads(self.plan_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path}: not a run directory: it holds no plan.json") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.plan_file}: cannot be read: {error}") from None
        return _checked(Plan, fields, self.plan_file)

    def read_site(self) -> Site:
        """Read the site this run was submitted to."""
        try:
            return Site.model_validate(yaml.safe_load(self.site_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{self.site_file}: cannot be read: {error}") from None


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
            write_atomically(folder.task_file, _yaml(task))
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


def _yaml(model: BaseModel) -> bytes:
    return yaml.safe_dump(model.model_dump(), sort_keys=False).encode()


def _checked(model, fields, path: Path):
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version != SCHEMA:
        raise InputError(f"{path}: schema version {version!r}; this hpc_kit reads version {SCHEMA}")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = re.sub(r"[^\w.]", "", ".".join(str(part) for part in first["loc"]))
        raise InputError(f"{path}: damaged at {where}: {first['msg']}") from None
