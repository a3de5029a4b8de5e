"""What timings and differences between them are worth: medians and their ratios with intervals, and the least
difference that could have been seen. Numbers in, numbers out.

The unit of replication is the run: epochs of one run share its node, its heat and its neighbours, and more of them
say nothing of the next run. Only `median_interval` is of the epochs of one run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

DRAWS = 10_000
OF_A_RUN = 200  # resampled medians of each run, of which the draws take theirs
FEWEST_FOR_BOOTSTRAP = 5  # runs a side; of fewer, its interval is too narrow (docs/comparing.md)
LEVEL, POWER = 0.95, 0.80
Z = 1.959964  # standard errors of a normal distribution that hold LEVEL
BOOTSTRAP, STUDENT, WITHIN, NONE = (
    "bootstrap over runs and blocks of epochs",
    "Student's t over the logs of the runs' medians",
    "epochs of these runs alone: says nothing of other runs",
    "no interval: one run on a side",
)


@dataclass(frozen=True)
class Effect:
    """A ratio of medians with its interval, by `method`. `low` and `high` are None where there is none;
    `detectable` is the least true ratio above 1 that is found in 80 of 100 such comparisons, None with one run."""

    ratio: float
    low: float | None
    high: float | None
    method: str
    detectable: float | None

    @property
    def is_of_runs(self) -> bool:
        """Tell whether the interval is of runs, and so of the next run too."""
        return self.method in (BOOTSTRAP, STUDENT)

    @property
    def holds_one(self) -> bool | None:
        """Tell whether the interval holds 1; None where there is none over runs."""
        return self.low <= 1.0 <= self.high if self.is_of_runs else None


@dataclass(frozen=True)
class Side:
    """The runs of one configuration: seconds of each run's timed epochs, at least one a run, all above 0."""

    runs: Sequence[Sequence[float]]
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def logs(self) -> np.ndarray:
        """The logarithm of each run's median, [runs]."""
        return np.array([np.log(np.median(run)) for run in self.runs])

    @property
    def median(self) -> float:
        """The median of the runs' medians."""
        return float(np.exp(np.median(self.logs)))

    def variance(self) -> float:
        """Return the variance of the log of `median`, from how the runs differ. Needs two runs."""
        logs = self.logs
        return float(np.var(logs, ddof=1)) / len(logs) * median_factor(len(logs))

    def draws(self, stream: int) -> np.ndarray:
        """Return logs of `median` of resampled runs with resampled blocks of epochs, [DRAWS]. Each `stream` draws by
        itself, and the same every time."""
        if stream not in self._kept:
            random = np.random.default_rng([stream, 20150])
            bank = np.stack([_resampled_medians(np.log(run), random) for run in self.runs])
            count = len(self.runs)
            chosen = bank[random.integers(0, count, (DRAWS, count)), random.integers(0, OF_A_RUN, (DRAWS, count))]
            self._kept[stream] = np.median(chosen, axis=1)
        return self._kept[stream]


def ratio(above: Side, below: Side, level: float = LEVEL) -> Effect:
    """Return the ratio of the medians of two sides."""
    return contrast([above], [below], level)


def contrast(above: Sequence[Side], below: Sequence[Side], level: float = LEVEL) -> Effect:
    """Return the product of the medians of `above` over that of `below`, with its interval at `level`, on logs.

    With at least FEWEST_FOR_BOOTSTRAP runs on each side the interval is the percentiles of a hierarchical bootstrap
    (Davison and Hinkley 1997, section 3.8). With fewer it is Welch's t (doi 10.1093/biomet/34.1-2.28) over the logs
    of the runs' medians, the variance of a mean taken to that of a median. With one run on a side it is a bootstrap
    of the epochs alone, and says so. `detectable` is (t(level) + t(80 %)) standard errors above 1.
    """
    sides, signs = [*above, *below], [1.0] * len(above) + [-1.0] * len(below)
    centre = sum(sign * float(np.median(side.logs)) for sign, side in zip(signs, sides, strict=True))
    if min(len(side.runs) for side in sides) == 1:
        if any(len(run) < 2 for side in sides for run in side.runs):
            return Effect(math.exp(centre), None, None, NONE, None)
        return Effect(math.exp(centre), *_percentiles(sides, signs, level), WITHIN, None)
    least, most, detectable = _student(sides, centre, 0.5 + level / 2)
    if min(len(side.runs) for side in sides) >= FEWEST_FOR_BOOTSTRAP:
        return Effect(math.exp(centre), *_percentiles(sides, signs, level), BOOTSTRAP, detectable)
    return Effect(math.exp(centre), least, most, STUDENT, detectable)


def slower_by(above: Side, below: Side, alarms: float) -> Effect:
    """Return the ratio of two sides with one-sided bounds: with equal medians `low` is above 1 in a share `alarms` of
    comparisons, and `high` below 1 as often. By Student's t for any number of runs, from two on."""
    centre = float(np.median(above.logs) - np.median(below.logs))
    low, high, detectable = _student((above, below), centre, 1 - alarms)
    return Effect(math.exp(centre), low, high, STUDENT, detectable)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median of `values`: the values of ranks floor((n - z sqrt(n)) / 2) and
    ceil(1 + (n + z sqrt(n)) / 2), counted from 1 (Hoefler and Belli 2015, doi 10.1145/2807591.2807644).

    None where these ranks do not exist: of fewer than 8 values.
    """
    ordered, n = sorted(values), len(values)
    low, high = math.floor((n - Z * math.sqrt(n)) / 2), math.ceil(1 + (n + Z * math.sqrt(n)) / 2)
    return None if low < 1 or high > n else (ordered[low - 1], ordered[high - 1])


def relative_width(values: Sequence[float]) -> float | None:
    """Return the width of the median's interval over the median; None where there is no interval."""
    interval = median_interval(values)
    return None if interval is None else (interval[1] - interval[0]) / float(np.median(values))


def median_factor(n: int) -> float:
    """Return the variance of the median of n normal values over that of their mean: 1 for two, pi/2 for very many.

    The first follow from the order statistics of the normal distribution; from 10 on this is
    pi/2 n / (n + pi/2 - 1), for even n less 0.86 / n, right within 2 %.
    """
    exact = (1.0, 1.0, 1.3463, 1.1930, 1.4337, 1.2882, 1.4726, 1.3439, 1.4945)
    if n <= len(exact):
        return exact[n - 1]
    return math.pi / 2 * n / (n + math.pi / 2 - 1) - (0.0 if n % 2 else 0.86 / n)


def quantile_of_t(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t; `freedom` need not be whole."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(freedom, probability) if math.isfinite(freedom) else ndtri(probability))


def welch_freedom(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Return Welch and Satterthwaite's degrees of freedom of a sum of estimated variances, each of so many runs."""
    parts = sum(variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True))
    return sum(variances) ** 2 / parts if parts else float(min(counts) - 1)


def _student(sides: Sequence[Side], centre: float, probability: float) -> tuple[float, float, float]:
    """Return the bounds that `probability` of all estimates of exp(`centre`) lie above and below, and the least ratio
    above 1 whose lower bound is above 1 with POWER."""
    variances = [side.variance() for side in sides]
    error, freedom = math.sqrt(sum(variances)), welch_freedom(variances, [len(side.runs) for side in sides])
    outer = quantile_of_t(probability, freedom) * error
    detectable = math.exp(outer + quantile_of_t(POWER, freedom) * error)
    return math.exp(centre - outer), math.exp(centre + outer), detectable


def _percentiles(sides: Sequence[Side], signs: Sequence[float], level: float) -> tuple[float, float]:
    drawn = sum(sign * side.draws(number) for number, (sign, side) in enumerate(zip(signs, sides, strict=True)))
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return math.exp(low), math.exp(high)


def _resampled_medians(logs: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return medians of a run's epochs resampled in circular blocks, [OF_A_RUN]: blocks keep what neighbours share
    (Politis and Romano 1992); their length is the cube root of the count, rounded up."""
    count = len(logs)
    length = math.ceil(count ** (1 / 3))
    starts = random.integers(0, count, (OF_A_RUN, math.ceil(count / length), 1))
    places = (starts + np.arange(length)).reshape(OF_A_RUN, -1)[:, :count] % count
    return np.median(logs[places], axis=1)
