"""Where attempts run: in this process's own thread, or through Parsl in blocks that are asked for as work is left.

Not for: which tasks run and what became of them (drive.py).
"""

import atexit
import contextlib
import logging
import math
import os
import shlex
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil

from hpc_kit.plan import Plan
from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.layout import RunDir, last_lines
from hpc_kit.sites.attempt import run_attempt
from hpc_kit.sites.launch import check_command
from hpc_kit.sites.policy import plan_blocks
from hpc_kit.sites.scheduler import ENDED, Followed, JobRecord, Scheduler, SchedulerError
from hpc_kit.sites.schedulers import scheduler_of
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.site import Site

IDLE_S = 20.0  # a block that no task needs is given back after so long
FALSE_STARTS = 3  # so many blocks in a row that end without having started a task end the run
REFUSALS = 5
HELD_S = 10.0
GONE_WITHIN_S = 90.0  # how long a cancelled block may take to leave the queue
Say = Callable[[str], None]


class OwnThread:
    """One task after the other, in a thread of this process, without Parsl."""

    window = 1

    def __enter__(self) -> "OwnThread":
        self._pool = ThreadPoolExecutor(1)
        return self

    def submit(self, folder: str, attempt: int) -> Future:
        return self._pool.submit(run_attempt, folder, attempt, _me())

    def tend(self, left: int, undecided: int, busy: set[str]) -> None:
        """Nothing can be lost here, and there are no blocks."""

    def started(self, job: str | None) -> None:
        """There are no blocks."""

    def is_over(self, job: str | None) -> bool:
        """There are no blocks."""
        return False

    def refuses(self, block: str | None, why: str) -> None:
        """There are no blocks."""

    def record(self, job: str | None) -> JobRecord | None:
        """There is no scheduler."""

    def __exit__(self, *_) -> None:
        self._pool.shutdown()


class ThroughParsl:
    """Parsl's executor for a site, closed with all its processes and blocks when the `with` ends. `say` is told what
    becomes of blocks and worker pools that do not simply do their work."""

    def __init__(self, run: RunDir, plan: Plan, site: Site, left: int, say: Say):
        from hpc_kit.sites import parsl_config  # Parsl takes half a second to load
        from hpc_kit.sites.provider import BatchProvider

        resources = plan.tasks[0].resources
        self._site, self._log, self._say = site, BlockLog(run), say
        self._packed = resources.nodes == 1
        self._resources = {} if self._packed else {
            "num_nodes": resources.nodes, "ranks_per_node": resources.ranks_per_node,
        }  # fmt: skip
        self._scheduler = scheduler_of(site, run.block_scripts)
        if self._scheduler is None:
            self._batch = None
            self._config = parsl_config.local_config(site, resources, run.parsl)
            self.window = 64
        else:
            blocks = plan_blocks(site, resources, left)
            check = shlex.join(check_command(site, plan.tasks[0], run.task(plan.tasks[0].id)))
            self._batch = BatchProvider(
                self._scheduler, site, blocks, run.block_scripts, f"hk-{run.key}", self._log, self._packed, check
            )
            self._config = parsl_config.batch_config(site, resources, self._batch, run.parsl, "none")
            self.window = max(64, 2 * blocks.blocks * blocks.slots)
        self._executor = self._config.executors[0]
        self._jobs_at_work: set[str] = set()  # blocks that have started a task
        self._held: dict[str, float] = {}  # blocks that take no more tasks -> since when
        self._refusals = self._next_try = self._idle_pools = self._useless = 0

    def __enter__(self) -> "ThroughParsl":
        import parsl

        logging.raiseExceptions = False  # or a full disk has every line of Parsl's log answered with a traceback
        self._kernel = parsl.load(self._config)
        self._app = parsl.python_app(run_attempt, data_flow_kernel=self._kernel)
        return self

    def submit(self, folder: str, attempt: int) -> Future:
        me = _me() if self._batch is None else None  # on another host this process cannot be watched
        more = {"parsl_resource_specification": dict(self._resources)} if self._resources else {}
        return self._app(folder, attempt, me, **more)

    def tend(self, left: int, undecided: int, busy: set[str]) -> None:
        """Keep as many blocks as the `left` unfinished tasks need, and write down those that have ended.

        Of the `undecided` it is not known yet whether they go on: no block is asked for or given back for them.
        `busy` are the blocks in which tasks are at work. Raises InputError where the scheduler takes no block at all,
        WorkError where it does not answer or blocks do no work.
        """
        self._check_interchange()
        if self._batch is None:
            self._keep_pool()
            return
        plan, provider = self._batch.plan, self._batch
        self._note_ends()
        self._doubt()
        self._give_back(busy)
        active = [job for job in provider.resources if job not in self._held and not self._is_over(job)]
        wanted, kept = (min(plan.blocks, math.ceil(tasks / plan.slots)) for tasks in (left, left + undecided))
        if len(active) < wanted and time.monotonic() >= self._next_try:
            self._executor.scale_out_facade(wanted - len(active))
            self._notice_refusal(bool(active))
        elif len(active) > kept:
            self._executor.scale_in_facade(len(active) - kept, max_idletime=IDLE_S)

    def started(self, job: str | None) -> None:
        """Learn that a task has started in a block."""
        self._idle_pools = self._useless = 0
        if job:
            self._jobs_at_work.add(job)

    def is_over(self, job: str | None) -> bool:
        """Tell whether the scheduler has said that a block has ended, before its workers are missed."""
        return self._batch is not None and job in self._batch.resources and self._is_over(job)

    def refuses(self, block: str | None, why: str) -> None:
        """Give no more tasks to a block that has no time for them or is ending."""
        if block is None:
            return
        self._executor._hold_block(block)  # again for each: another of its nodes may have come meanwhile
        job = self._executor.blocks_to_job_id.get(block)
        if job is not None and job not in self._held:
            self._held[job] = time.monotonic()
            self._say(f"block {job} takes no more tasks, and another is asked for: {why}")
            if job not in self._jobs_at_work:
                self._useless += 1
            if self._useless >= FALSE_STARTS:
                raise WorkError(f"{self._useless} blocks in a row took no task at all: {why}")

    def record(self, job: str | None) -> JobRecord | None:
        """Ask the scheduler now what became of a block. That this run gave it back is no word on a task."""
        record = self._batch.ask_again(job) if self._batch and job else None
        if record and record.state == "cancelled" and job in self._batch.ended_by_us:
            return replace(record, state="done", evidence=f"given back by this run; {record.evidence}")
        return record

    def __exit__(self, *_) -> None:
        import parsl

        if self._executor.bad_state_is_set:  # cleanup() would wait for the interchange for ever
            atexit.unregister(self._kernel.atexit_cleanup)
            self._executor.provider.cancel(list(self._executor.provider.resources))
        else:
            self._kernel.cleanup()
        parsl.clear()
        if self._batch is not None:
            if forgotten := [job for job in self._batch.resources if self._batch.is_forgotten(job)]:
                self._batch.cancel(forgotten)  # they may be at work, and Parsl takes them for ended
            names = {job: known["block"] for job, known in self._batch.resources.items()}
            wait_until_gone(self._site, self._batch.followed, self._log, names, self._batch.ended_by_us)

    def _check_interchange(self) -> None:
        """Raise WorkError if Parsl's interchange has died; Parsl itself waits for it for ever."""
        if self._executor.interchange_proc.poll() is not None:
            self._executor.set_bad_state_and_fail_all(RuntimeError("Parsl's interchange died"))
            raise WorkError("Parsl's interchange died; 'hpc_kit resume' goes on")

    def _keep_pool(self) -> None:
        """Start this machine's worker pool again where it has died, as one does that the kernel killed for memory.

        Raises WorkError where pools die without having started a task.
        """
        pools = self._executor.provider.resources
        if not pools or any(pool.poll() is None for pool in pools.values()):
            return
        self._idle_pools += 1
        code = list(pools.values())[-1].returncode
        died = f"the worker pool died with exit code {code}{_ending(self._executor.provider.outputs[-1])}"
        if self._idle_pools >= FALSE_STARTS:
            raise WorkError(f"{FALSE_STARTS} worker pools in a row died; the last: {died}")
        self._say(f"{died}; it is started again")
        self._executor.provider.cancel(list(pools))  # what the dead one has left behind
        self._executor.scale_out_facade(1)

    def _give_back(self, busy: set[str]) -> None:
        """End blocks that take no more tasks once none is at work in them."""
        until = time.monotonic() - HELD_S  # a task that was on its way when the block was held has begun by then
        idle = [job for job, since in self._held.items() if since < until and job not in busy]
        if idle := [job for job in idle if not self._is_over(job)]:
            self._batch.cancel(idle)

    def _is_over(self, job: str) -> bool:
        """Tell whether a block has ended. One that the scheduler has merely forgotten may be at work all the same."""
        if job in self._batch.ended_by_us:
            return True
        if not self._batch.followed.is_over(job):
            return False
        if not self._batch.is_forgotten(job):
            return True
        answering = {manager["block_id"] for manager in self._executor.connected_managers()}  # connected_blocks: ever
        return self._executor.job_ids_to_block.get(job) not in answering

    def _notice_refusal(self, others_at_work: bool) -> None:
        refused = self._batch.refused
        self._refusals = self._refusals + 1 if refused else 0
        if refused and not others_at_work and (self._refusals >= REFUSALS or not self._batch.resources):
            if not self._batch.answers():
                raise WorkError(f"the scheduler of site {self._site.name!r} does not answer: {refused}")
            if not self._batch.resources:
                raise InputError(f"site {self._site.name!r} takes no block: {refused}")
            raise WorkError(f"site {self._site.name!r} takes no more blocks: {refused}")
        self._next_try = time.monotonic() + (self._site.poll_s if refused else 0.0)

    def _note_ends(self) -> None:
        """Write down what the scheduler said last of blocks that have ended, and say it where nobody asked for it."""
        for job, known in self._batch.resources.items():
            name = known["block"]
            if self._log.blocks[name].open and self._is_over(job) and (record := self._batch.record(job)):
                if record.state not in ENDED:
                    continue
                by_us = job in self._batch.ended_by_us
                _note_end(self._log, name, record, by_us)
                if not by_us and record.state != "done":
                    self._say(
                        f"block {job} has ended: {record.evidence}{_ending(self._batch.folder / f'{name}.out')}"
                    )

    def _doubt(self) -> None:
        """Raise WorkError where blocks end without having done any work: more of them would do none either."""
        idle = []
        for job, known in self._batch.resources.items():
            entry = self._log.blocks[known["block"]]
            if entry.open or job in self._batch.ended_by_us:
                continue
            if job in self._jobs_at_work:
                idle = []
            elif entry.state == "cancelled":
                raise WorkError(f"block {job} was cancelled from outside before it did any work: {entry.evidence}")
            else:
                idle.append(entry)
        if len(idle) >= FALSE_STARTS:
            what = f"{len(idle)} blocks in a row ended before they started a task: {idle[-1].evidence}"
            raise WorkError(f"{what}{_ending(self._batch.folder / f'{idle[-1].name}.out')}")


def end_leftovers(site: Site, scheduler: Scheduler, run: RunDir, log: BlockLog) -> list[str]:
    """End every block of a run that is still in the queue, as a driver that was killed leaves them; return their ids.

    Found by their names, so one that was asked for and never written down is found too. Raises WorkError where they
    do not leave, or nothing answers.
    """
    try:
        known = {block.job: block.name for block in log.blocks.values() if block.open and block.job}
        left = sorted({*scheduler.find(f"hk-{run.key}"), *known})
        if left:
            scheduler.cancel(left)
        wait_until_gone(site, Followed(scheduler), log, {job: known.get(job, "") for job in left}, left)
    except SchedulerError as error:
        raise WorkError(
            f"blocks of an earlier driver may still be in the queue, and cannot be looked for: {error}"
        ) from None
    for block in log.blocks.values():
        if block.open:  # asked for, and never taken or long forgotten
            log.ended(block.name, "unknown", "not in the queue when the run was taken up again")
    return left


def wait_until_gone(
    site: Site, followed: Followed, log: BlockLog, jobs: dict[str, str], ended_by_us: Collection[str]
) -> None:
    """Wait until the `jobs` (id -> block's name, "" where unknown) have left the queue; write down how they ended.

    Raises WorkError naming those that do not leave.
    """
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := [job for job in jobs if not followed.is_over(job)]:
        if time.monotonic() > deadline:
            raise WorkError(
                f"blocks that may still be in the queue of {site.name!r}: {', '.join(left)}; cancel them by hand"
            )
        with contextlib.suppress(SchedulerError):
            followed.ask(left)
        time.sleep(min(1.0, site.poll_s) if any(not followed.is_over(job) for job in left) else 0)
    for job, name in jobs.items():
        if name:
            _note_end(log, name, followed.records[job], job in ended_by_us)


def _note_end(log: BlockLog, name: str, record: JobRecord, by_us: bool) -> None:
    """Write down how a block ended, once."""
    if log.blocks[name].open:
        state = "given_back" if by_us and record.state == "cancelled" else record.state
        log.ended(name, state, record.evidence, record.elapsed_s)


def _ending(log: Path) -> str:
    """Return the last lines that a block or a pool has printed, to be put behind what is said of its end."""
    said = last_lines(log, 5)
    return f"; {log} ends:\n" + "\n".join(f"  | {line}" for line in said) if said else ""


def _me() -> tuple[int, float]:
    return os.getpid(), psutil.Process().create_time()
