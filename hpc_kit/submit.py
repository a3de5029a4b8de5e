"""The driver of a run: takes it up where an earlier one left it, and leaves nothing running behind.

Not for: following its tasks (drive.py), or what a task does (task.py).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc_kit import kinds
from hpc_kit.checks import Check
from hpc_kit.drive import RELEASE_S, Drive, what_is_left
from hpc_kit.files import remove_leftovers, write_json
from hpc_kit.images.sif import misfits, read_image
from hpc_kit.plan import Plan, make_plan
from hpc_kit.report.summary import summarize
from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.create import create_run, new_run_path
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.ledger import Ledger
from hpc_kit.runs.process import end_session, is_alive
from hpc_kit.runs.status import Statuses, TaskStatus
from hpc_kit.sites.outcome import judge
from hpc_kit.sites.policy import BlockPlan, plan_blocks, problems, slots
from hpc_kit.sites.scheduler import SchedulerError
from hpc_kit.sites.schedulers import scheduler_of
from hpc_kit.sites.workers import OwnThread, Say, ThroughParsl, end_leftovers
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import Site

DETACHED_WITHIN_S = 60.0
PROBE_WALLTIME = "00:10:00"
Show = Callable[[list[TaskStatus]], None]


def drive(
    run: RunDir, plan: Plan, site: Site, show: Show, parsl: bool = True, say: Say = lambda text: None
) -> list[TaskStatus]:
    """Run every task of `run` that is not done and return the state of all.

    `show` is called with all states about twice a second, `say` with what becomes of blocks. On Ctrl-C, SIGTERM,
    SIGHUP or a cancel request the running tasks are ended and the rest is not started. Raises InputError where
    another driver has this run or the site takes no block, WorkError where blocks do no work, the scheduler does not
    answer or the disk is full.
    """
    lock = run.lock
    if not lock.acquire():
        who = lock.holder()
        raise InputError(
            f"{run.path}: is being driven already, by process {who.get('pid')} on {who.get('host')};"
            " 'hpc_kit status' shows it, 'hpc_kit cancel' ends it"
        )
    try:
        if parsl:
            _end_blocks(run, site)
        remove_leftovers(run.path, run.splits)
        _keep_image(run, plan)
        ledger = _open_ledger(run, plan)
        todo = [task for task in plan.tasks if ledger.tasks[task.id].state != "done"]
        statuses = Statuses(run, plan, ledger)
        with _cancel_on_signals(run):
            for part in plan.model_copy(update={"tasks": todo}).by_resources():
                if run.cancel_request.exists():
                    break
                pool = ThroughParsl(run, part, site, len(part.tasks), say) if parsl else OwnThread()
                with Drive(run, ledger, pool, part.tasks, say) as drive, pool:
                    drive.follow(lock.beat, lambda: show(statuses.all()))
        states = statuses.all()
        show(states)
        return states
    except OSError as error:
        if not run.path.exists():
            raise WorkError(f"{run.path}: was deleted while its tasks were run") from None
        raise WorkError(
            f"{run.path}: {error.strerror or error}; 'hpc_kit resume' goes on once that is mended"
        ) from None
    finally:
        lock.release()


def prepare(site: Site, plan: Plan) -> tuple[list[BlockPlan | None], list[str]]:
    """Return the blocks that each part of `plan.by_resources()` needs (None: no blocks) and what speaks against them:
    limits of the site that they violate, an image made for something else.

    Raises InputError where not even one task fits, or the image cannot be read.
    """
    found, against = [], []
    for part in plan.by_resources():
        resources, image = part.tasks[0].resources, part.tasks[0].image
        against += misfits(read_image(Path(image)), site, resources.gpus_per_rank > 0) if image else []
        if site.scheduler == "local":
            slots(site, resources)
            found.append(None)
            continue
        found.append(plan_blocks(site, resources, len(part.tasks)))
        against += problems(site, resources, found[-1])
    return found, list(dict.fromkeys(against))


def try_site(site: Site, plan: Plan | None, root: Path, show: Show) -> list[Check]:
    """Run the job "probe" on a site, below `root`, with the resources and the image of `plan`, and return what it has
    found. Raises InputError, WorkError."""
    sets = []
    if plan:
        asked = plan.tasks[0].resources.model_copy(update={"walltime": PROBE_WALLTIME})
        sets = [f"resources={asked.model_dump_json()}", f"image={json.dumps(plan.tasks[0].image)}"]
    file = load_job("probe", sets)
    probes = make_plan(file)
    run = create_run(new_run_path(root, file.job.name).absolute(), probes, file.job, site)
    (state,) = drive(run, probes, site, show)
    (row,) = summarize(run)["probes"]
    end = ": ".join(filter(None, (state.state, state.reason)))
    found = [Check(name, "pass", seen) for name, seen in kinds.login_side("probe").findings(row)]
    if state.state != "done":
        return [Check("probe", "fail", end, f"look into {run.path}")]
    return [Check("probe", "pass", f"{end}: {run.path}"), *found]


def ask_blocks(run: RunDir) -> list[dict[str, Any]]:
    """Ask the scheduler about the blocks of a run that may still be in its queue, in one call.

    Raises WorkError where it does not answer.
    """
    scheduler = scheduler_of(run.read_site(), run.block_scripts)
    blocks = [block for block in BlockLog(run).blocks.values() if block.open] if scheduler else []
    try:
        records = scheduler.records([block.job for block in blocks if block.job]) if blocks else {}
    except SchedulerError as error:
        raise WorkError(f"the scheduler does not answer: {error}") from None
    nothing = {"state": "unknown", "why": "", "evidence": "the scheduler does not know it"}
    found = [asdict(records[b.job]) if b.job in records else nothing for b in blocks]
    return [told | {"name": block.name, "job": block.job} for block, told in zip(blocks, found, strict=True)]


def detach(run: RunDir) -> tuple[int, str]:
    """Start a driver of `run` in a session of its own, which outlives this terminal; return its pid and host.

    Raises InputError or WorkError with its words where it ends at once.
    """
    with run.driver_log.open("ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "hpc_kit", "resume", str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + DETACHED_WITHIN_S
    while run.lock.holder().get("pid") != driver.pid and time.monotonic() < deadline:
        if (code := driver.poll()) is not None:
            words = run.driver_log.read_text(errors="replace").strip()
            if code:
                raise (InputError if code == 2 else WorkError)(f"the driver ended at once:\n{words}")
            break
        time.sleep(0.1)
    return driver.pid, os.uname().nodename


def request_cancel(run: RunDir) -> bool:
    """Ask the driver of `run` to end; return False where none is at work."""
    if not run.lock.is_held():
        return False
    run.cancel_request.touch()
    return True


def cancel_blocks(run: RunDir, site: Site) -> list[str]:
    """End the blocks that a driver which is gone has left in the queue; return their ids. Raises WorkError."""
    lock = run.lock
    if not lock.acquire():
        raise InputError(f"{run.path}: a driver has just taken it up")
    try:
        return _end_blocks(run, site)
    finally:
        lock.release()


def _end_blocks(run: RunDir, site: Site) -> list[str]:
    """End what is in the queue of this run, by the scheduler's word and by blocks.jsonl; the run's lock is held."""
    scheduler = scheduler_of(site, run.block_scripts)
    if scheduler is None or not run.blocks.exists():
        return []
    log = BlockLog(run)
    log.repair()
    return end_leftovers(site, scheduler, run, log)


def _keep_image(run: RunDir, plan: Plan) -> None:
    """Write down which file the tasks run in. Raises InputError where it is not the one the run began with."""
    if plan.tasks[0].image is None:
        return
    found, before = read_image(Path(plan.tasks[0].image)), run.read_image()
    if before and before["sha256"] != found.sha256:
        raise InputError(
            f"{found.path}: has been built again since this run began: put the file back whose sha256 is"
            f" {before['sha256']}, or submit anew"
        )
    if not before:
        write_json(run.image_file, found.as_json())


def _open_ledger(run: RunDir, plan: Plan) -> Ledger:
    """Bring the ledger in step with what an earlier driver left: finished tasks, and processes it left running."""
    run.cancel_request.unlink(missing_ok=True)
    Ledger.repair(run.ledger)
    ledger = Ledger(run.ledger, [task.id for task in plan.tasks])
    missing = {task.id: run.task(task.id).why_not_done() for task in plan.tasks}
    run.check_tasks({task_id for task_id, why in missing.items() if why})
    for task in plan.tasks:
        task_id, why = task.id, missing[task.id]
        folder, entry = run.task(task_id), ledger.tasks[task_id]
        if entry.state == "done" and why:
            _end_leftover(folder)
            ledger.submit([task_id], f"it was done, and now {why}")
            continue
        if entry.state == "done" or (entry.state == "planned" and why):
            continue
        if not why:
            if entry.state not in ("submitted", "started"):
                ledger.submit([task_id])
            ledger.end(task_id, "done", "done.json was there when the run was taken up again", 0)
            continue
        _end_leftover(folder)
        if entry.state in ("submitted", "started"):
            lost = "its driver died before it ended"
            end = judge(what_is_left(folder, entry, task), None, lost, "", ours=lost)
            ledger.end(task_id, end.state, end.reason, end.exit_code, hint=end.hint, evidence=end.evidence)
    return ledger


def _end_leftover(folder: TaskDir) -> None:
    """End a process that still works in `folder` although its driver is gone."""
    if folder.lock.is_held():
        holder = folder.lock.holder()
        if holder and is_alive(holder["pid"], holder["born"]):
            with contextlib.suppress(ProcessLookupError):
                leader = os.getsid(holder["pid"])
                # not a task that somebody runs by hand, in a session of their own
                if leader == folder.read_process().get("pid"):
                    end_session(leader)
        deadline = time.monotonic() + RELEASE_S
        while folder.lock.is_held():
            if time.monotonic() > deadline:
                raise InputError(
                    f"{folder.path}: process {holder.get('pid')} on {holder.get('host')} still works here; end it"
                )
            time.sleep(0.1)


@contextlib.contextmanager
def _cancel_on_signals(run: RunDir) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, lambda *_: run.cancel_request.touch()) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
