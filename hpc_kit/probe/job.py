"""Jobs of kind "probe": what a user writes, and what a run of it says about a site. The login side; run.py is the
node's.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from hpc_kit.plan import Task, Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import BlockLine, LedgerLine, Record, read_lines
from hpc_kit.runs.status import TaskStatus
from hpc_kit.spec.document import Strict
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Positive

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Probe(Strict):
    """Count to `steps`, `step_s` seconds each, keeping the count on disk, so that an attempt goes on where the one
    before it was ended.

    First it measures: with `file_mb` writing and reading a file of that size in the run directory, with
    `allreduce_mb` the sum of so much over all ranks (which loads torch), with `memory_gb` whether a rank may use that
    much memory. `stop_s` is how long it takes to stop once it is asked to, as writing a large checkpoint would, and
    `ends` how it ends after its last step: to see what a site makes of it.
    """

    steps: Positive = 10
    step_s: NotNegative = 1.0
    stop_s: NotNegative = 0.0
    file_mb: Annotated[int, Field(ge=0)] = 0
    allreduce_mb: Annotated[int, Field(ge=0)] = 0
    memory_gb: NotNegative = 0.0
    ends: Literal["well", "failed", "killed"] = "well"


class Job(AnyJob):
    """A job that tries a site."""

    varied: ClassVar[tuple[str, ...]] = ("probe",)

    kind: Literal["probe"]
    probe: Probe = Probe()


class Work(AnyWork):
    """What to count and to measure."""

    probe: Probe

    def amount(self) -> tuple[int, str]:
        return self.probe.steps, "steps"


class Metrics(Record):
    """metrics.json: what a task has measured."""

    began_at: float
    host: str
    ranks: int
    launcher: str | None
    cores: int
    gpus: list[dict[str, Any]]
    write_mb_s: float | None
    read_mb_s: float | None
    allreduce_gb_s: float | None


def works(jobs: Varied) -> Works:
    """Yield each job with its piece of work."""
    for job, _ in jobs:
        yield job, Work(probe=job.probe)


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what each task has measured, and how long it waited: `queue_s` from the first request for a block, or
    where there are none from the task's submission, to the start of its process; `start_s` from there to its first
    line of work."""
    blocks = [line["time"] for line in read_lines(run.blocks, BlockLine)]
    asked = {}
    for line in read_lines(run.ledger, LedgerLine):
        if line["state"] == "submitted":
            asked.setdefault(line["task"], line["time"])
    rows = []
    for task in tasks:
        folder, row = run.task(task.id), {"id": task.id, "label": task.label, "state": states[task.id].state}
        if row["state"] == "done":
            found, started = folder.read_metrics(Metrics), folder.read_process().get("started_at")
            waits = [*blocks, asked[task.id]] if task.id in asked else []
            row |= found | {
                "queue_s": started - min(waits) if started and waits else None,
                "start_s": found["began_at"] - started if started else None,
            }
        rows.append(row)
    return {"probes": rows}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print what each task has found, a line a thing."""
    table = Table()
    for name in ("task", "", "seen"):
        table.add_column(name, overflow="fold")
    for row in summary["probes"]:
        table.add_row(row["label"], "state", row["state"])
        for name, seen in findings(row):
            table.add_row("", name, seen)
        table.add_section()
    console.print(table)


def findings(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what one task has found, in words; [] for one that did not come to its end."""
    if row["state"] != "done":
        return []
    launcher = row["launcher"] or "no launcher"
    gpus = [gpu.get("name") or "GPU" for gpu in row["gpus"]]
    found = [
        ("wait for a block", _seconds(row["queue_s"])),
        ("start of the task", _seconds(row["start_s"])),
        (
            "host",
            f"{row['host']}, {row['cores']} cores for {row['ranks']} ranks ({launcher})",
        ),
        ("GPUs seen", f"{len(gpus)} x {gpus[0]}" if gpus else "none"),
    ]
    if row["write_mb_s"]:
        speed = f"writes {row['write_mb_s']:.0f} MB/s, reads {row['read_mb_s']:.0f} MB/s"
        found.append(("run directory", speed))
    if row["allreduce_gb_s"]:
        found.append(("sum over ranks", f"{row['allreduce_gb_s']:.2f} GB/s over {row['ranks']} ranks"))
    return found


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f} s"
