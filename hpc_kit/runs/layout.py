"""The run directory and the task directory: every path in them has its name here and nowhere else."""

import contextlib
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hpc_kit.files import file_sha256, remove_leftovers, write_json
from hpc_kit.lock import Lock
from hpc_kit.plan import SCHEMA, Plan, Task
from hpc_kit.runs import records
from hpc_kit.runs.records import read_json
from hpc_kit.spec.document import Document
from hpc_kit.spec.errors import InputError, RankLost, WorkError
from hpc_kit.spec.site import Site

Kind = TypeVar("Kind")


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
        return self.run.splits

    def read_task(self) -> Task:
        """Read task.yaml. Raises InputError where it is missing, damaged, of another schema, of another task, or was
        changed after it was written."""
        document = records.read_sealed_yaml(self.task_file)
        if document is None:
            raise InputError(f"{self.path}: not a task directory: it holds no task.yaml")
        task = _checked(Task, _intact(document))
        if task.id != self.path.name:
            raise InputError(f"{self.task_file}: is of the task {task.id!r}, not of its folder's; {records.ANEW}")
        return task

    def read_done(self) -> records.Done | None:
        """Return done.json, None where there is none. Raises InputError where it is not this task's or damaged."""
        remedy = "remove it, and 'hpc_kit resume' runs the task again"
        done = read_json(self.done, records.Done, remedy)
        if done is not None and (done["id"], done["schema_version"]) != (self.path.name, SCHEMA):
            which = f"task {done['id']!r}, schema version {done['schema_version']}"
            raise InputError(f"{self.done}: is of {which}, not of its folder's task and {SCHEMA}; {remedy}")
        return done

    def is_done(self) -> bool:
        """Tell whether a whole done.json says so."""
        return self.why_not_done() == ""

    def why_not_done(self) -> str:
        """Return "" where a whole done.json says that the task is done; else what is wrong with it."""
        try:
            return "there is no done.json" if self.read_done() is None else ""
        except InputError as error:
            return str(error)

    def write_done(self, schema_version: int) -> None:
        """Say that the task is done, and the sha256 of each record that it leaves."""
        vouched = (self.metrics, self.epochs, self.fingerprint, self.predictions, self.best)
        sums = {path.name: file_sha256(path) for path in vouched if path.exists()}
        finished = {"schema_version": schema_version, "id": self.path.name, "finished_at": time.time()}
        write_json(self.done, finished | {"records": sums})

    def read_metrics(self, kind: type[Kind]) -> Kind:
        """Return metrics.json of a task that is done. Raises InputError where it is missing, damaged or not what the
        task wrote."""
        self.verify(self.metrics)
        return read_json(self.metrics, kind, records.AGAIN)

    def read_epochs(self) -> list[records.Epoch]:
        """Return the lines of epochs.jsonl so far. Raises InputError where they are not what a task that is done
        wrote."""
        if self.epochs.exists() and self.is_done():
            self.verify(self.epochs)
        return records.read_lines(self.epochs, records.Epoch)

    def verify(self, path: Path) -> None:
        """See that a record of a task that is done is the one that done.json vouches for. Raises InputError."""
        found, done = records.file_sha256(path, records.AGAIN), self.read_done()
        if found is None:
            raise InputError(f"{path}: is gone; {records.AGAIN}")
        if done is None or done["records"].get(path.name) != found:
            raise InputError(f"{path}: was changed: it is not what done.json vouches for; {records.AGAIN}")

    def read_process(self) -> records.Process | dict[str, Any]:
        """Return what the last attempt's process was: attempt, pid, host, job, started_at; {} where none was."""
        return read_json(self.process, records.Process) or {}

    def read_failed(self) -> records.Failed | dict[str, Any]:
        """Return the error that ended the last attempt, in the words of the rank that had it: error (its type),
        text; {} where none did."""
        return read_json(self.failed, records.Failed) or {}

    def write_failed(self, error: Exception) -> None:
        """Write down the error that ends this attempt. That another rank is gone gives way to what that one says."""
        lost = isinstance(error, RankLost)
        if not (lost and self.failed.exists()):
            kind = type(error).__name__
            text = str(error) if isinstance(error, (InputError, WorkError)) else f"{kind}: {error}"
            write_json(self.failed, {"error": kind, "text": text})

    def read_exit(self) -> records.Exit | dict[str, Any]:
        """Return how the last attempt that could say so ended: attempt, exit_code, ended; {} where none did."""
        return read_json(self.exit, records.Exit) or {}

    def reached(self) -> tuple:
        """Return what changes whenever the task has come further: times and sizes of last.pt and progress.json."""
        found = []
        for path in (self.last, self.progress):
            try:
                found.append((path.stat().st_mtime_ns, path.stat().st_size))
            except OSError:
                found.append((0, 0))
        return tuple(found)

    def read_progress(self) -> records.Progress | dict[str, Any]:
        """Return how far the task has come: done, total, unit, score; {} where it has not said so yet."""
        return read_json(self.progress, records.Progress) or {}

    def write_progress(self, done: int, total: int, unit: str, score: dict[str, Any] | None = None) -> None:
        """Say how far the task has come. `score` is the best word on how good its work is so far: its name, value
        and unit, as in {"name": "val MAE", "value": 0.012, "unit": "eV"}."""
        write_json(self.progress, {"done": done, "total": total, "unit": unit, "score": score})

    def read_stopped(self) -> records.Stopped | dict[str, Any]:
        """Return why the last attempt stopped early, cause and text; {} where it did not."""
        return read_json(self.stopped, records.Stopped) or {}

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
    tasks = property(lambda self: self.path / "tasks")
    site_file = property(lambda self: self.path / "site.yaml")
    image_file = property(lambda self: self.path / "image.json")
    ledger = property(lambda self: self.path / "ledger.jsonl")
    parsl = property(lambda self: self.path / "parsl")
    blocks = property(lambda self: self.path / "blocks.jsonl")
    block_scripts = property(lambda self: self.path / "blocks")
    key_file = property(lambda self: self.path / "key")
    driver_log = property(lambda self: self.path / "driver.log")
    cancel_request = property(lambda self: self.path / "cancel")
    splits = property(lambda self: self.path / "splits")

    @property
    def lock(self) -> Lock:
        """Held by the driver: the one process that starts this run's tasks and writes its ledger."""
        return Lock(self.path / "driver.lock")

    @property
    def key(self) -> str:
        """Eight letters and digits that the names of this run's blocks begin with, and of no other run's."""
        content = records.read_bytes(self.key_file, records.ANEW)
        if not re.fullmatch(rb"[0-9a-f]{8}\n?", content or b""):
            raise InputError(f"{self.key_file}: is gone or damaged; {records.ANEW}")
        return content.decode().strip()

    def task(self, task_id: str) -> TaskDir:
        return TaskDir(self.tasks / task_id, self.path)

    def read_plan(self) -> Plan:
        """Read plan.json. Raises InputError where this is no run directory, or one of another schema, or plan.json is
        damaged or was changed after it was written."""
        document = self._plan()
        del document.data["site_sha256"]
        for task in document.data["tasks"]:
            del task["sha256"]
        return _checked(Plan, document)

    def _plan(self) -> Document:
        """Return what plan.json holds: the plan, and the seals of the other files. Raises InputError."""
        fields = records.read_sealed_json(self.plan_file)
        if fields is None:
            raise InputError(f"{self.path}: not a run directory: it holds no plan.json")
        return _intact(Document(str(self.plan_file), fields, {}))

    def require_tasks(self) -> None:
        """Raise InputError where the folder of all tasks is gone."""
        if not self.tasks.is_dir():
            raise InputError(f"{self.tasks}: is gone, and all that the tasks had left with it; submit job.yaml anew")

    def check_tasks(self, ids: Collection[str]) -> None:
        """See that task.yaml of the tasks `ids`, and site.yaml, are those that plan.json was written with. Raises
        InputError naming the one that is not."""
        self.require_tasks()
        fields = self._plan().data
        seals = {self.task(task["id"]).task_file: task["sha256"] for task in fields["tasks"] if task["id"] in ids}
        for path, seal in {self.site_file: fields["site_sha256"], **seals}.items():
            content = records.read_bytes(path, records.ANEW)
            if content is None:
                raise InputError(f"{path}: is gone; {records.ANEW}")
            if not content.startswith(f"sha256: {seal}\n".encode()):
                raise InputError(f"{path}: is not the one that this run was submitted with; {records.ANEW}")

    def read_image(self) -> records.Image | dict[str, Any]:
        """Return what image.json says of the image that the tasks run in; {} without one."""
        return read_json(self.image_file, records.Image, records.ANEW) or {}

    def read_site(self) -> Site:
        """Read the site this run was submitted to. Raises InputError where it is not as it was written."""
        document = records.read_sealed_yaml(self.site_file)
        if document is None:
            raise InputError(f"{self.site_file}: is gone; {records.ANEW}")
        fields = records.open_seal(self.site_file, document.data)
        return Document(document.path, fields, document.places).check(Site)


def task_directory(folder: Path) -> TaskDir:
    """Return the task directory at `folder`, which is tasks/<id> of its run."""
    path = folder.absolute()
    return TaskDir(path, path.parent.parent)


def find_runs(root: Path) -> list[RunDir]:
    """Return the run directories in `root`, oldest first; those of which only the ledger is left too."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        run = RunDir(folder)
        for path in (run.plan_file, run.ledger):
            with contextlib.suppress(OSError):  # no run, or being removed
                found.append((path.lstat().st_mtime, run))
                break
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def last_lines(path: Path, lines: int) -> list[str]:
    """Return the last lines of a text file that are not empty, [] where it is not there or not to be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def _intact(document: Document) -> Document:
    """Return the content of plan.json or task.yaml without its seal. Raises InputError where it is of another schema
    or was changed."""
    version = document.data.get("schema_version")
    if version != SCHEMA:
        raise InputError(
            f"{document.path}: schema version {version!r}; this hpc_kit reads version {SCHEMA}. Finish the run with"
            " the hpc_kit that made it, or submit its job.yaml anew"
        )
    return Document(document.path, records.open_seal(Path(document.path), document.data), document.places)


def _checked(model: type[Kind], document: Document) -> Kind:
    """Return the content of plan.json or task.yaml. Raises InputError where it is damaged."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise InputError(f"{document.told(error)[0]}; {records.ANEW}") from None
