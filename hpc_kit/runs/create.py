"""Makes run directories, and writes anew what a run is told where its resources change.

Not for: what is where in them (layout.py).
"""

import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hpc_kit.files import is_of_disk, write_atomically
from hpc_kit.plan import Plan, Task
from hpc_kit.runs import records
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.job import Job
from hpc_kit.spec.site import Site
from hpc_kit.spec.yaml_text import write_yaml

MOST_TOLD = 10  # differences of a run from what is submitted to it


def new_run_path(root: Path, name: str) -> Path:
    """Return a path for a new run, `root/<name>-<time>`, that does not exist yet."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (root / (stem + suffix) for suffix in ["", *(f"-{n}" for n in range(2, 100))])
    return next(path for path in candidates if not path.exists())


def create_run(path: Path, plan: Plan, job: Job, site: Site) -> RunDir:
    """Make the run directory, or open the one that is there if it holds the same tasks on the same site; other
    resources are written anew, which is told on stderr.

    Raises InputError where `path` holds something else.
    """
    run = RunDir(path)
    if run.plan_file.exists():
        if told := _other_resources(run, plan, site):
            _write_anew(run, plan, job, site)
            print("\n".join(["written anew:", *told]), file=sys.stderr)
        return run
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not a run directory; choose another --run")
    try:
        for task in plan.tasks:
            run.task(task.id).path.mkdir(parents=True)
        write_atomically(run.key_file, f"{uuid.uuid4().hex[:8]}\n".encode())
        _write_files(run, plan, job, site)
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        if kind is WorkError:  # what was begun would stand in the way once there is space
            shutil.rmtree(path, ignore_errors=True)
        raise kind(f"{path}: the run directory cannot be made: {error.strerror}") from None
    return run


def add_task(run: RunDir, plan: Plan, task: Task) -> Plan:
    """Add a task to the run of `plan` and return the plan it has then. For the holder of the run's lock."""
    run.task(task.id).path.mkdir(parents=True, exist_ok=True)
    _write_task(run, task)
    grown = plan.model_copy(update={"tasks": [*plan.tasks, task]})
    _write_plan(run, grown, run.read_site())
    return grown


def _write_files(run: RunDir, plan: Plan, job: Job, site: Site) -> None:
    """Write what a run is told. plan.json, which has the seals of the others, comes last: a directory without it was
    never submitted, and where writing anew was cut off nothing is run before that is done again."""
    for task in plan.tasks:
        _write_task(run, task)
    write_atomically(run.job_file, write_yaml(job.model_dump()).encode())
    write_atomically(run.site_file, write_yaml(records.sealed(site.model_dump())).encode())
    _write_plan(run, plan, site)


def _write_task(run: RunDir, task: Task) -> None:
    run.task(task.id).task_file.write_bytes(write_yaml(records.sealed(task.model_dump())).encode())


def _write_plan(run: RunDir, plan: Plan, site: Site) -> None:
    tasks = [records.sealed(task.model_dump()) for task in plan.tasks]
    seal = records.sealed(site.model_dump())["sha256"]
    fields = {"schema_version": plan.schema_version, "name": plan.name, "site_sha256": seal}
    write_atomically(run.plan_file, records.sealed_json(fields | {"tasks": tasks}, "tasks"))


def _write_anew(run: RunDir, plan: Plan, job: Job, site: Site) -> None:
    """Write the files of a run anew, while no driver is at work. Raises InputError where one is."""
    run.require_tasks()
    lock = run.lock
    if not lock.acquire():
        raise InputError(f"{run.path}: is being driven; 'hpc_kit cancel' it first")
    try:
        _write_files(run, plan, job, site)
    except OSError as error:
        raise WorkError(f"{run.path}: cannot be written: {error.strerror}; submit again") from None
    finally:
        lock.release()


def _other_resources(run: RunDir, plan: Plan, site: Site) -> list[str]:
    """Return in which resources `plan` differs from the run's, as "resources.walltime: was …, is …".

    Raises InputError where a run holds other tasks than `plan`, or was submitted with another site or image: what
    it has begun there would not be comparable with the rest.
    """
    before = run.read_plan()
    theirs, ours = ({task.id: task for task in p.tasks} for p in (before, plan))
    if theirs.keys() != ours.keys():
        other = len(theirs.keys() - ours.keys())
        raise InputError(
            f"{run.path}: is a run of other tasks ({other} of its {len(theirs)} are not in this job);"
            " choose another --run"
        )
    pairs = [("site", run.read_site(), site), *(("", theirs[name], ours[name]) for name in ours)]
    found = (_differing(a, b, prefix) for prefix, a, b in pairs if a != b)
    told = list(dict.fromkeys(f"{key}: was {a!r}, is {b!r}" for differing in found for key, a, b in differing))
    if refused := [line for line in told if not line.startswith("resources.")]:
        refused[MOST_TOLD:] = [f"and {len(refused) - MOST_TOLD} more"] * (len(refused) > MOST_TOLD)
        what = f"{run.path}: was submitted with other values; 'hpc_kit resume' it as it is, or choose another --run"
        raise InputError("\n".join([what, *refused]))
    return told


def _differing(before: BaseModel, now: BaseModel, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key of each value in which two models differ, with both."""
    sides = [(prefix, before.model_dump(), now.model_dump())]
    while sides:
        key, a, b = sides.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            sides += [(f"{key}.{name}".lstrip("."), a.get(name), b.get(name)) for name in reversed([*(a | b)])]
        elif a != b:
            yield key, a, b
