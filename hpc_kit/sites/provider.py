"""Blocks of a batch scheduler as a Parsl provider: one for all dialects (slurm.py, pbs.py, cobalt.py).

Parsl's own are not used: their SlurmProvider takes an unquoted path into a shell line, forgets that a job failed, and
knows a third of Slurm's states; their PBSProProvider loses all jobs of a query when the server does not know one of
them; the one for Cobalt is gone. This one keeps what the scheduler says in its own words, for outcome.py.
"""

from collections.abc import Sequence
from pathlib import Path

from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers.cluster_provider import ClusterProvider
from parsl.utils import RepresentationMixin

from hpc_kit.files import write_atomically
from hpc_kit.runs.blocks import BlockLog
from hpc_kit.sites.policy import BlockPlan, hourly_charge
from hpc_kit.sites.scheduler import Followed, JobRecord, Scheduler, SchedulerError
from hpc_kit.sites.script import block_script, make_block, on_each_node
from hpc_kit.spec.site import Site
from hpc_kit.spec.walltime import in_words

AGAIN_S = 5.0  # between two questions about one block, which may have ended several tasks
_STATES = {
    "queued": JobState.PENDING,
    "held": JobState.HELD,
    "running": JobState.RUNNING,
    "ending": JobState.RUNNING,
    "done": JobState.COMPLETED,
    "time_limit": JobState.TIMEOUT,
    "cancelled": JobState.CANCELLED,
}


class BatchProvider(ClusterProvider, RepresentationMixin):
    """Asks `scheduler` for blocks as `plan` says, and knows what became of each.

    Scripts and their output go to `folder`; names of jobs begin with `prefix`. `log` keeps every block. With `packed`
    the worker pool is started on each node of a block; else on the first, for tasks that take whole groups of nodes.
    `check` is a shell line that has to end well first.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        site: Site,
        plan: BlockPlan,
        folder: Path,
        prefix: str,
        log: BlockLog,
        packed: bool,
        check: str = "",
        init_blocks: int = 0,
    ):
        super().__init__(
            label=scheduler.name,
            nodes_per_block=plan.nodes,
            init_blocks=init_blocks,
            min_blocks=0,
            max_blocks=plan.blocks,
            parallelism=1,
            walltime=in_words(plan.walltime_s),
            launcher=SimpleLauncher(),
        )
        self.scheduler, self.site, self.plan = scheduler, site, plan
        self.folder, self.prefix, self.log, self.packed, self.check = folder, prefix, log, packed, check
        self.refused = ""  # what the scheduler said to the last block that it would not take; "": it took it
        self.followed = Followed(scheduler)
        self.ended_by_us: set[str] = set()

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> str:
        """Ask for one block that runs `command`. Raises SchedulerError."""
        block = make_block(self.site, self.plan, f"{self.prefix}-{len(self.log.blocks)}", self.folder)
        script = self.folder / f"{block.name}.sh"
        self.folder.mkdir(exist_ok=True)
        command = on_each_node(self.site, block, command) if self.packed else command
        write_atomically(script, block_script(self.scheduler, self.site, block, command, self.check).encode())
        self.log.ask(block.name, hourly_charge(self.site, self.plan), self.plan.slots)
        try:
            job = self.scheduler.submit(script, block)
        except SchedulerError as error:
            self.refused = str(error)
            self.log.ended(block.name, "refused", self.refused)
            raise
        self.refused = ""
        self.log.queued(block.name, job)
        self.resources[job] = {"job_id": job, "status": JobStatus(JobState.PENDING), "block": block.name}
        return job

    def _status(self) -> None:
        """Ask once for all blocks that have not ended. Where nothing answers, what is known stays."""
        try:
            self.followed.ask(self.followed.open(self.resources))
        except SchedulerError:
            return
        for job, known in self.resources.items():
            if record := self.record(job):
                state = JobState.UNKNOWN if record.state == "unknown" else _STATES.get(record.state, JobState.FAILED)
                known["status"] = JobStatus(state, record.evidence)

    def record(self, job: str) -> JobRecord | None:
        """Return what the scheduler last said of a block."""
        return self.followed.records.get(job)

    def is_forgotten(self, job: str) -> bool:
        """Tell whether the scheduler knows nothing of a block any more, which is no word on its end."""
        return job not in self.ended_by_us and job in self.followed.records and self.record(job).state == "forgotten"

    def ask_again(self, job: str) -> JobRecord | None:
        """Ask now what became of one block, which may be of an earlier driver; None where nothing answers."""
        return self.followed.ask_again(job, min(AGAIN_S, self.site.poll_s))

    def answers(self) -> bool:
        """Ask the scheduler something simple, to tell a refusal from silence."""
        try:
            self.scheduler.find(self.prefix)
        except SchedulerError:
            return False
        return True

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        try:
            self.scheduler.cancel(list(job_ids))
        except SchedulerError:
            return [False for _ in job_ids]
        self.ended_by_us |= set(job_ids)
        for job in job_ids:
            self.resources[job]["status"] = JobStatus(JobState.CANCELLED)
        return [True for _ in job_ids]

    @property
    def status_polling_interval(self) -> float:
        return self.site.poll_s
