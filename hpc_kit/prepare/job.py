"""Jobs of kind "prepare": what a user writes, and what came of a run. The login side; run.py is the node's."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator
from rich.console import Console

from hpc_kit.plan import Task, Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.status import TaskStatus
from hpc_kit.spec.data import Prepare
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.shipped import user_path


class Job(AnyJob):
    """A job that makes one shard set."""

    kind: Literal["prepare"]
    prepare: Prepare

    @model_validator(mode="after")
    def _on_one_rank(self) -> "Job":
        if self.resources.nodes * self.resources.ranks_per_node > 1:
            raise ValueError("a job of kind 'prepare' runs on one rank, with resources.cpus_per_rank processes")
        return self


class Work(AnyWork):
    """The shard set to make, with whole paths."""

    prepare: Prepare

    def folders(self) -> list[str]:
        return [*([self.prepare.path] if self.prepare.path else []), str(Path(self.prepare.out).parent)]

    def amount(self) -> tuple[int, str]:
        return self.prepare.limit or 0, "structures"

    def title(self) -> str:
        return f"prepare {self.prepare.source}"


class Metrics(Record):
    """metrics.json: the shard set that was made."""

    out: str
    graphs: int
    rejected: int
    sha256: str


def works(jobs: Varied) -> Works:
    """Yield each job's one piece of work."""
    for job, _ in jobs:
        paths = {"path": job.prepare.path, "out": job.prepare.out}
        whole = {key: str(user_path(path)) if path else None for key, path in paths.items()}
        yield job, Work(prepare=job.prepare.model_copy(update=whole))


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what is said of each shard set that was made."""
    done = [task for task in tasks if states[task.id].state == "done"]
    return {"shard_sets": [run.task(task.id).read_metrics(Metrics) for task in done]}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a line a shard set."""
    for made in summary["shard_sets"]:
        text = f"{made['out']}: {made['graphs']} graphs, {made['rejected']} rejected, sha256 {made['sha256']}"
        console.print(text, soft_wrap=True, highlight=False)
