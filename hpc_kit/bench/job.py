"""Jobs of kind "benchmark": what a user writes, and how it becomes pieces of work. The login side; run.py is the
node's.

Not for: what came of a run (summary.py).
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpc_kit.bench.metrics import LEAST_EPOCHS
from hpc_kit.bench.summary import print_summary, summarize
from hpc_kit.plan import Varied, Works
from hpc_kit.spec.document import Document, Strict
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.job import Resources
from hpc_kit.spec.models import Positive
from hpc_kit.spec.train import Train
from hpc_kit.spec.walltime import Walltime, in_seconds
from hpc_kit.train import job as training

__all__ = ["Benchmark", "Job", "Work", "works", "summarize", "print_summary"]

SHARE_OF_WALLTIME = 0.8  # what is taken of it where no budget is given


class Benchmark(Strict):
    """How epochs are timed. The first `warmup_epochs` of every start are recorded and not counted. Then epochs are
    timed until the 95 % interval of their median is no wider than `width` times the median, at least
    `min_epochs` and at most `max_epochs`, or until all epochs together have taken `budget` (null: 80 % of
    resources.walltime).

    `cache` is the state of the page cache of the shard files before each epoch: "cold", they are dropped from it, or
    "warm", they are read first. With `weak` the batch of one rank is train.batch_size, and the batch grows with the
    ranks; else train.batch_size is the whole batch. `measure_overhead` leaves the clocks of the phases off in every
    second epoch, and reports the ratio.
    """

    warmup_epochs: Annotated[int, Field(ge=0)] = 2
    min_epochs: Annotated[int, Field(ge=LEAST_EPOCHS)] = 10
    max_epochs: Positive = 100
    width: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    budget: Walltime | None = None
    cache: Literal["cold", "warm"] = "warm"
    weak: bool = False
    measure_overhead: bool = False

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "Benchmark":
        if self.max_epochs < self.min_epochs:
            raise ValueError(f"max_epochs ({self.max_epochs}) must not be below min_epochs ({self.min_epochs})")
        return self


class Job(training.Job):
    """A job that times the epochs of a training. Its seeds are its replicates: runs of the same work."""

    varied: ClassVar[tuple[str, ...]] = (*training.Job.varied, "benchmark")

    kind: Literal["benchmark"]
    benchmark: Benchmark = Benchmark()

    @model_validator(mode="before")
    @classmethod
    def _alone_on_its_nodes(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and isinstance(fields.get("resources", {}), dict):
            return fields | {"resources": {"exclusive": True} | fields.get("resources", {})}
        return fields

    @model_validator(mode="after")
    def _epochs_are_the_benchmarks(self) -> "Job":
        for key, instead in (("epochs", "benchmark.max_epochs says how many"), ("early_stopping", "leave it out")):
            if key in self.train.model_fields_set and getattr(self.train, key) is not None:
                raise ValueError(f"train.{key} has no effect in a benchmark: {instead}")
        budget, walltime = self.benchmark.budget, self.resources.walltime
        if budget is not None and in_seconds(budget) > in_seconds(walltime):
            raise ValueError(f"benchmark.budget {budget} is more than resources.walltime {walltime}")
        return self


class Work(training.Work):
    """One series of timed epochs: a training's work, whose train.epochs are all that may be run, and how to time."""

    benchmark: Benchmark

    @property
    def warm_up_epochs(self) -> int:
        return self.benchmark.warmup_epochs

    def content(self) -> dict[str, Any]:
        return super().content() | {"benchmark": self.benchmark.model_dump()}

    def budget_s(self, resources: Resources) -> float:
        """Return what all epochs together may take, in seconds."""
        given = self.benchmark.budget
        return in_seconds(given) if given else SHARE_OF_WALLTIME * in_seconds(resources.walltime)


def works(jobs: Varied) -> Works:
    """Yield each job with its piece of work. Raises InputError naming the key that does not fit."""
    for job, work in training.works(_as_trainings(jobs)):
        fields = {name: getattr(work, name) for name in training.Work.model_fields}
        yield job, Work(**fields, benchmark=job.benchmark)


def _as_trainings(jobs: Varied) -> Iterator[tuple[AnyJob, Document]]:
    for job, document in jobs:
        epochs = job.benchmark.warmup_epochs + job.benchmark.max_epochs
        grown = _grown(job.train, job.resources) if job.benchmark.weak else job.train
        yield job.model_copy(update={"train": grown.model_copy(update={"epochs": epochs})}), document


def _grown(train: Train, resources: Resources) -> Train:
    """Return `train` with the limits of one rank's batch made those of the whole."""
    ranks = resources.nodes * resources.ranks_per_node
    limits = ("batch_size", "batch_atoms", "batch_edges")
    return train.model_copy(update={name: ranks * size for name in limits if (size := getattr(train, name))})
