"""How much of the differences between trials each hyperparameter accounts for: functional ANOVA, and how far that is
to be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_kit.spec.errors import InputError

LEAST = 10  # trials, below which nothing is said
FEW = 40  # trials, below which a note is made
REPEATS = 20
MOST = 100  # trials in one resampling: the time grows with their square
_TREES = 32
_CONTROL = "(a random number)"


@dataclass(frozen=True)
class Importance:
    """The share of the variance that `key` alone accounts for: median, and the tenth and ninetieth percentile over
    resampled trials and seeds of the forest. `told`: whether it lies above what a random number in its place gets."""

    key: str
    share: float
    low: float
    high: float
    told: bool


@dataclass(frozen=True)
class Importances:
    """Of all keys that vary, most important first; `control` is the ninetieth percentile that a column of random
    numbers gets; `left_out` are keys that only some of the trials have, with how many do."""

    keys: list[Importance]
    control: float
    trials: int
    left_out: dict[str, int]
    log: bool

    def notes(self) -> list[str]:
        """Return what a reader should know before believing it."""
        scale = "the logarithm of the error" if self.log else "the error"
        notes = [
            f"Share of the variance of {scale} over the search space, by functional ANOVA of a random forest fitted"
            f" to {self.trials} trials. Bars: median and the range from the 10th to the 90th percentile over"
            f" {REPEATS} resamplings of the trials ({min(self.trials, MOST)} drawn with replacement), each with"
            f" another seed of the forest. A column of random numbers gets up to {self.control:.1%} in this way: what"
            " lies within that is not told from no influence."
        ]
        if self.trials < FEW:
            notes.append(f"{self.trials} trials are few for this: below {FEW}, the order is often another next time.")
        if self.left_out:
            some = ", ".join(f"{key} ({count})" for key, count in self.left_out.items())
            notes.append(f"Not ranked, because only some of the trials have them: {some}.")
        return notes


def importances(trials: Sequence[tuple[dict[str, Any], float]], log_keys: Sequence[str] = ()) -> Importances | None:
    """Return the importances by (values, error) of the trials that were done; None where there are fewer than LEAST
    or nothing varies. `log_keys` are searched on a logarithmic scale.

    Functional ANOVA: Hutter, Hoos and Leyton-Brown 2014, https://proceedings.mlr.press/v32/hutter14.html; optuna's
    FanovaImportanceEvaluator. Raises InputError where optuna is not installed.
    """
    trials = [(values, error) for values, error in trials if math.isfinite(error)]
    if len(trials) < LEAST:
        return None
    counts: dict[str, int] = {}
    for values, _ in trials:
        for key in values:
            counts[key] = counts.get(key, 0) + 1
    columns = {
        key: _column([values[key] for values, _ in trials], key in log_keys)
        for key, count in counts.items()
        if count == len(trials)
    }
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    if not columns:
        return None
    errors = [error for _, error in trials]
    log = min(errors) > 0
    shares = _shares(columns, [math.log10(error) for error in errors] if log else errors)
    control = float(np.quantile(shares.pop(_CONTROL), 0.9))
    found = []
    for key, several in shares.items():
        low, middle, high = (float(value) for value in np.quantile(several, (0.1, 0.5, 0.9)))
        found.append(Importance(key, middle, low, high, low > control))
    found.sort(key=lambda one: -one.share)
    left_out = {key: count for key, count in counts.items() if count < len(trials)}
    return Importances(found, control, len(trials), left_out, log)


def _column(values: list[Any], log: bool) -> list[float] | list[str]:
    """Return one key's values as numbers, or as texts where they are choices."""
    if all(type(value) in (int, float) for value in values):
        return [math.log10(value) if log else float(value) for value in values]
    return [str(value) for value in values]


def _shares(columns: dict[str, list], errors: list[float]) -> dict[str, list[float]]:
    """Return key -> its share in each of REPEATS resamplings."""
    optuna = _optuna()
    spaces = {_CONTROL: optuna.distributions.FloatDistribution(0.0, 1.0)}
    for key, column in columns.items():
        if isinstance(column[0], str):
            spaces[key] = optuna.distributions.CategoricalDistribution(sorted(set(column)))
        else:
            spaces[key] = optuna.distributions.FloatDistribution(min(column), max(column))
    random, found = np.random.default_rng(0), {key: [] for key in spaces}
    for seed in range(REPEATS):
        chosen = random.integers(len(errors), size=min(len(errors), MOST))
        noise = random.random(len(errors))
        study = optuna.create_study()
        for row in chosen:
            params = {_CONTROL: float(noise[row]), **{key: column[row] for key, column in columns.items()}}
            study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=errors[row]))
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
        for key, share in evaluator.evaluate(study, params=list(spaces)).items():
            found[key].append(0.0 if math.isnan(share) else share)
    return found


def _optuna() -> Any:
    try:
        import optuna
        import sklearn  # noqa: F401  (optuna's forest is its)
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install 'hpc-kit[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
