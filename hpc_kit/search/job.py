"""Jobs of kind "search": what a user writes, and how it becomes pieces of work. The login side; run.py is the
node's.

Not for: the language of the space (space.py), what came of a search (summary.py).
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpc_kit.plan import Varied, Works, in_words
from hpc_kit.search.pruning import Pruning
from hpc_kit.search.space import Space, SpaceError, read_space
from hpc_kit.search.summary import print_summary, summarize
from hpc_kit.search.trials import with_values
from hpc_kit.spec.document import Document, Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Positive
from hpc_kit.spec.split import Seed
from hpc_kit.train import job as training

__all__ = ["Job", "Search", "Work", "works", "summarize", "print_summary"]

OWN_KEYS = ("search", "seeds", "grid", "name", "kind", "resources", "image")  # of a job that are not a trial's


class Search(Strict):
    """What is searched, how, and for how many trials.

    bayes: after `initial` random trials DeepHyper's centralised Bayesian optimisation proposes, by a `surrogate`
    model of the objectives and an `acquisition` function, whose best point `acquisition_optimizer` looks for.
    random: all are random. `points` are tried first: known good values, every searched key named.

    A trial's objective is its best validation error; with [error, epoch_s] the median time of its epochs too.
    `ranks_per_trial` neighbouring ranks train one trial together. Rank 0 proposes and the others train;
    `rank_0_trains` has it do both, so that no GPU of its node is idle. `trial_seed` is that of every training; null:
    the search's own.
    """

    strategy: Literal["bayes", "random"] = "bayes"
    trials: Positive = 40
    space: dict[str, Any]
    points: list[dict[str, Any]] = []
    initial: Positive = 10
    surrogate: Literal["ET", "RF", "TB", "RS", "GP"] = "ET"
    acquisition: Literal["UCBd", "UCB", "EI", "PI"] = "UCBd"
    acquisition_optimizer: Literal["sampling", "mixedga", "ga"] = "sampling"
    objectives: Annotated[list[Literal["error", "epoch_s"]], Field(min_length=1)] = ["error"]
    pruning: Pruning | None = None
    ranks_per_trial: Positive = 1
    rank_0_trains: bool = False
    trial_seed: Seed | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Search":
        if self.strategy == "bayes" and self.trials <= self.initial:
            raise ValueError(
                f"trials ({self.trials}) must be more than initial ({self.initial}): the first {self.initial} are"
                " random, and the search would end before it begins to propose"
            )
        if len(self.points) > self.trials:
            raise ValueError(f"points names {len(self.points)} and trials is {self.trials}")
        if self.surrogate == "GP" and self.acquisition == "UCBd":
            raise ValueError("surrogate GP does not know acquisition UCBd: take UCB, EI or PI")
        if self.objectives not in (["error"], ["error", "epoch_s"]):
            raise ValueError("objectives must be [error] or [error, epoch_s]")
        return self


class Job(training.Job):
    """A job that searches the hyperparameters of the training it describes; each of its seeds is a search."""

    varied: ClassVar[tuple[str, ...]] = (*training.Job.varied, "search")

    kind: Literal["search"]
    search: Search

    @model_validator(mode="after")
    def _ranks_fit(self) -> "Job":
        ranks = self.resources.nodes * self.resources.ranks_per_node
        trained, each = ranks - (not self.search.rank_0_trains), self.search.ranks_per_trial
        if trained < 1:
            raise ValueError(
                f"a search takes two ranks or more, and this has {ranks}: rank 0 proposes and the others train. Raise"
                " resources.ranks_per_node or nodes, or set search.rank_0_trains: true"
            )
        if trained % each:
            raise ValueError(
                f"search.ranks_per_trial ({each}) does not divide the {trained} ranks that train (nodes x"
                f" ranks_per_node{'' if self.search.rank_0_trains else ', less rank 0'})"
            )
        return self


class Work(training.Work):
    """One search. The fields of a training are those that its trials start from."""

    outlives_ranks: ClassVar[bool] = True

    search: Search

    def content(self) -> dict[str, Any]:
        return super().content() | {"search": self.search.model_dump()}

    def space(self) -> Space:
        """Return what is searched."""
        base = {"train": self.train.model_dump(), "model": self.model.model_dump(), "data": self.data.model_dump()}
        return read_space(self.search.space, base)

    def notes(self) -> list[str]:
        if (most := self.space().most_points()) >= self.search.trials:
            return []
        many = f"search.trials is {self.search.trials}, and the space has no more than {most:g} different points"
        return [f"{many}: what is tried again is not trained again"]

    def amount(self) -> tuple[int, str]:
        return self.search.trials, "trials"


def works(jobs: Varied) -> Works:
    """Yield each job with its piece of work, once every bound and every choice of its space has been tried on the
    job's own checks.

    Raises InputError naming the key and the value that does not fit.
    """
    for job, document in jobs:
        base = _training(document)
        [(_, work)] = training.works(iter([(base.check(training.Job), base)]))
        fields = {name: getattr(work, name) for name in type(work).model_fields}
        found = Work(**fields, search=job.search)
        _try(found, base, document)
        yield job, found


def _training(document: Document) -> Document:
    """Return the job without its search: the training that trials start from."""
    data = {key: value for key, value in document.data.items() if key not in OWN_KEYS}
    data |= {"name": document.data["name"], "kind": "train"}
    if "resources" in document.data:
        data["resources"] = document.data["resources"]
    return Document(document.path, data, document.places)


def _try(work: Work, base: Document, document: Document) -> None:
    """Raise InputError where the space, a bound, a choice or a point of it does not fit."""
    try:
        space = work.space()
    except SpaceError as error:
        raise document.error(("search", "space", *error.key), str(error)) from None
    if (pruning := work.search.pruning) is not None and pruning.warmup >= (longest := _most_epochs(space)):
        said = f"is {pruning.warmup}, and no trial has more than {longest} epochs: nothing would be pruned"
        raise document.error(("search", "pruning", "warmup"), said)
    for place, point in enumerate(work.search.points):
        if point in work.search.points[:place]:
            raise document.error(("search", "points", place), "is there twice")
        key, reason = space.why_outside(point)
        if reason:
            raise document.error(("search", "points", place, *key), reason)
    tried = [(("search", "space", *one.place), one.key, value, values) for one, value, values in space.corners()]
    tried += [(("search", "points", place), "", None, point) for place, point in enumerate(work.search.points)]
    trainings = training.works(_each(base, [values for *_, values in tried]))  # of one reading of the data set
    for key, name, value, values in tried:
        try:
            next(trainings)
        except InputError as error:
            what = f"{name}={value}" if name else in_words(values)
            said = _message(str(error))
            raise document.error(key, f"{what} cannot be: {said}") from None


def _most_epochs(space: Space) -> int:
    searched = [max(one.domain.corners()) for one in space.parameters if one.key == "train.epochs"]
    return max([space.base["train"]["epochs"], *searched])


def _each(base: Document, tried: list[dict[str, Any]]) -> Iterator[tuple[AnyJob, Document]]:
    for values in tried:
        document = with_values(base, values, _TRIED)
        yield document.check(training.Job), document


_TRIED = "tried"


def _message(text: str) -> str:
    """Return what an error says, without the place that a tried value has."""
    return " ".join(line.removeprefix(f"{_TRIED}: ") for line in text.split("\n"))
