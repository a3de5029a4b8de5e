"""The job file: the keys that every kind of job has, their limits and defaults.

Not for: what one kind has besides (job.py of its room, kinds.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from hpc_kit import kinds
from hpc_kit.spec.document import Document, Strict, parse_value, read_document
from hpc_kit.spec.errors import allowed
from hpc_kit.spec.models import Positive
from hpc_kit.spec.shipped import find_shipped
from hpc_kit.spec.split import Seed
from hpc_kit.spec.walltime import Walltime


class Resources(Strict):
    """What one task occupies: `nodes` times `ranks_per_node` processes that share every batch. `gpus_per_rank: 0`
    trains on the CPU; with 1 a missing GPU is an error. `memory_gb` is that of one rank; null: its share of a node,
    by the cores and GPUs it takes. With `exclusive` no other task shares a task's nodes, which are asked for and
    charged whole. A task that was preempted, ran into its walltime or lost its node is started again from its
    checkpoint, up to `retries` times."""

    nodes: Positive = 1
    ranks_per_node: Positive = 1
    gpus_per_rank: Annotated[int, Field(ge=0, le=1)] = 1
    cpus_per_rank: Positive = 8
    memory_gb: Positive | None = None
    exclusive: bool = False
    walltime: Walltime = "02:00:00"
    retries: Annotated[int, Field(ge=0)] = 5

    @property
    def size(self) -> tuple[int, int, int]:
        """Nodes, ranks and cores of a task, to put tasks in order."""
        ranks = self.nodes * self.ranks_per_node
        return self.nodes, ranks, ranks * self.cpus_per_rank


class Job(Strict):
    """What every job has; a kind's own job adds to it. `image` is an image to run in, by name ('hpc_kit image list')
    or path; null: the environment at hand. A kind whose `varied` is empty gives one task, without a grid or seeds."""

    varied: ClassVar[tuple[str, ...]] = ()  # the first parts of the keys that a grid may vary, beside resources

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: str
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    resources: Resources = Resources()
    image: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("seeds")
    @classmethod
    def _no_seed_twice(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"must not name a seed twice (got {seeds})")
        return seeds

    @field_validator("grid")
    @classmethod
    def _grid_varies_content(cls, grid: dict[str, list]) -> dict[str, list]:
        for key in grid:
            if cls.varied and key.split(".")[0] not in (*cls.varied, "resources"):
                raise ValueError(
                    f"cannot vary {key!r}: a grid varies keys under {', '.join(cls.varied)} or resources"
                )
        return grid

    @model_validator(mode="after")
    def _one_task(self) -> "Job":
        if not self.varied and (self.grid or len(self.seeds) > 1):
            raise ValueError(f"a job of kind {self.kind!r} is one task: it takes no grid and no seeds")
        return self


@dataclass(frozen=True)
class JobFile:
    """A checked job and the document it was read from."""

    job: Job
    document: Document


def load_job(name: str, overrides: Sequence[str] = ()) -> JobFile:
    """Read the job file `name` (a path, or a job that ships with the package) and apply `key=value` overrides.

    Raises InputError naming file, line, key and what is allowed.
    """
    document = read_document(find_shipped("jobs", name))
    for text in overrides:
        document = document.with_value(*parse_value("--set", text), f"--set {text}")
    kind = document.data.get("kind", "train")
    if not isinstance(kind, str) or kind not in kinds.ROOMS:
        raise document.error(("kind",), f"{kind!r} is not allowed; {allowed(kind, kinds.ROOMS)}")
    return JobFile(document.check(kinds.login_side(kind).Job), document)
