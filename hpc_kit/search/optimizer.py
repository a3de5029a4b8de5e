"""Which values a search tries next: DeepHyper's centralised Bayesian optimisation, or random values of its space.

DeepHyper (Egele et al. 2023, doi 10.1109/e-Science58273.2023.10254872) searches the unit cube that space.py makes of
the job's space, by its ask and tell; it starts no worker and writes no file. Everything it knows it is told again
after a restart, from trials.jsonl.
"""

import contextlib
import io
import json
import logging
import sys
import warnings
from typing import Any

import numpy as np

from hpc_kit.search.job import Search, Work
from hpc_kit.search.space import Choices, Parameter, Range, Values
from hpc_kit.spec.errors import InputError

_AGAIN = 1_000_003  # a search that goes on draws other numbers than it began with
_PROPOSALS, _DRAWS = 3, 100  # how often what was tried already is turned down


class Optimizer:
    """Proposes values: first the job's points, then random ones, then what the surrogate thinks best.

    `tell` what every trial has come to, those of earlier attempts first, and `remember` those that still wait to be
    run; `ask` as often as a trial can begin. Values are proposed once, unless the space has no others to find.
    """

    def __init__(self, search: Search, work: Work, seed: int):
        self._search, self._space, self._seed = search, work.space(), seed
        self._points = list(search.points)
        self._told: list[tuple[dict[str, Any], Any]] = []
        self._succeeded = 0
        self._library: Any = None
        self._pending = 0  # asked since the surrogate last learned something
        self._known: set[str] = set()  # all values proposed or told so far
        self._chance = np.random.default_rng(seed)

    def remember(self, values: Values) -> None:
        """Take note of a trial that was asked for by an earlier attempt and has not come to its end."""
        self._known.add(_key(values))
        self._points = [point for point in self._points if point != values]

    def tell(self, values: Values, objectives: dict[str, float] | None) -> None:
        """Take what a trial with `values` has come to; None: it failed. Its objectives are to be small."""
        self.remember(values)
        names = self._space.names(values)
        at = {one.name: _place(one, names[one.name]) for one in self._space.parameters}
        scores = None if objectives is None else [-objectives[name] for name in self._search.objectives]
        score = "F_failed" if scores is None else scores[0] if len(scores) == 1 else tuple(scores)
        self._succeeded += scores is not None
        self._told.append((at, score))

    def ask(self) -> tuple[Values, str]:
        """Return values to try and whose proposal they are: "given", "random" or "bayes"."""
        if self._points:
            values, by = self._points.pop(0), "given"
        else:
            values, by = self._new()
        self._known.add(_key(values))
        return values, by

    def _new(self) -> tuple[Values, str]:
        """Return values that were not tried yet, and whose proposal they are."""
        if self._library is None:
            self._library = self._open(len(self._told))
        if self._told:
            told, self._told, self._pending = self._told, [], 0
            with _quietly():
                self._library.tell(told)
        thinks = self._search.strategy == "bayes" and self._succeeded >= self._search.initial
        for _ in range(_PROPOSALS):
            self._pending += 1
            with _quietly():
                proposed = self._library.ask(self._pending if thinks else 1)[-1]
            values = self._space.complete(
                {one.name: _value(one, proposed[one.name]) for one in self._space.parameters}
            )
            if _key(values) not in self._known:
                return values, "bayes" if thinks else "random"
        for _ in range(_DRAWS):
            values = self._space.complete({one.name: _drawn(one, self._chance) for one in self._space.parameters})
            if _key(values) not in self._known:
                break
        return values, "random"

    def _open(self, told: int) -> Any:
        """Return DeepHyper's search. Raises InputError where it is not installed."""
        try:
            with _quietly(), _without_mpi():
                from deephyper.hpo import CBO, HpProblem
        except ImportError as error:
            raise InputError(f"a search needs DeepHyper ({error}): pip install 'hpc_kit[search]'") from None
        problem = HpProblem()
        for one in self._space.parameters:
            problem.add_hyperparameter(_dimension(one), one.name)
        search = self._search
        thinks = search.strategy == "bayes"
        with _quietly():
            return CBO(
                problem,
                random_state=(self._seed + _AGAIN * told) % 2**31,
                surrogate_model=search.surrogate if thinks else "DUMMY",
                surrogate_model_kwargs={"n_jobs": 1}
                if thinks and search.surrogate in ("ET", "RF", "TB", "RS")
                else None,
                acq_func=search.acquisition,
                acq_optimizer=search.acquisition_optimizer if thinks else "sampling",
                acq_optimizer_kwargs={"max_total_failures": -1},
                multi_point_strategy="cl_max",
                n_initial_points=search.initial,
                checkpoint_history_to_csv=False,
            )


@contextlib.contextmanager
def _without_mpi():
    """Hide mpi4py from an import: DeepHyper would load the MPI library of the environment, where there is one, and
    that need not be the one that has started the ranks."""
    hidden = "mpi4py" not in sys.modules
    if hidden:
        sys.modules["mpi4py"] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mpi4py"]


def _dimension(one: Parameter) -> Any:
    """Return what DeepHyper calls a hyperparameter's range: a place of the unit interval, or one of a list."""
    if isinstance(one.domain, Range):
        return (0.0, 1.0)
    count = len(one.domain.values)
    return list(range(count)) if one.domain.ordered else [str(number) for number in range(count)]


def _place(one: Parameter, value: Any) -> Any:
    if isinstance(one.domain, Range):
        return one.domain.place(value)
    number = one.domain.values.index(value)
    return number if one.domain.ordered else str(number)


def _value(one: Parameter, place: Any) -> Any:
    if isinstance(one.domain, Choices):
        return one.domain.values[int(place)]
    return one.domain.value(float(place))


def _drawn(one: Parameter, chance: np.random.Generator) -> Any:
    if isinstance(one.domain, Choices):
        return one.domain.values[chance.integers(len(one.domain.values))]
    return one.domain.value(chance.random())


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


@contextlib.contextmanager
def _quietly():
    """Keep what the library has to say to its own users away from a search's log."""
    logging.getLogger("deephyper").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
