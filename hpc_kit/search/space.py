"""The space of a search: what a user writes of each key, and the map between it and the unit cube.

Every key is searched on [0, 1] through its prior's quantiles, or as one of a list; so any optimiser of a box of
numbers and lists can search it.
Not for: asking for points (optimizer.py), making a trial of them (trials.py).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from hpc_kit.spec.errors import allowed
from hpc_kit.spec.yaml_text import Key

PRIORS = ("uniform", "normal", "log_uniform", "log_normal")
_RANGE_KEYS = ("low", "high", "log", "prior", "mean", "std", "when")
_CHOICE_KEYS = ("choices", "when")
SEARCHED = ("train", "model", "data.graph")

Values = dict[str, Any]  # dotted key -> value


class SpaceError(ValueError):
    """What is wrong at `key`, a path below `search.space`."""

    def __init__(self, key: Key, text: str):
        super().__init__(text)
        self.key = key


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `integer`: whole ones. `mean` and `std` are of a normal prior, cut
    off at the bounds; of a log_normal one `mean` is the middle value and `std` is in powers of e."""

    low: float
    high: float
    integer: bool
    prior: Literal["uniform", "normal", "log_uniform", "log_normal"]
    mean: float = 0.0
    std: float = 1.0

    def value(self, place: float) -> int | float:
        """Return the number at the quantile `place` of the prior."""
        low, high = self._edges()
        if self.prior.endswith("normal"):
            normal = NormalDist(self._inner(self.mean), self.std)
            below, above = normal.cdf(low), normal.cdf(high)
            quantile = below + min(max(place, 0.0), 1.0) * (above - below)
            inner = normal.inv_cdf(min(max(quantile, 1e-300), 1 - 1e-16))
        else:
            inner = low + place * (high - low)
        found = self._outer(min(max(inner, low), high))
        found = min(max(found, self.low), self.high)
        return min(max(math.floor(found + 0.5), int(self.low)), int(self.high)) if self.integer else found

    def place(self, value: float) -> float:
        """Return the quantile of a number."""
        low, high = self._edges()
        inner = min(max(self._inner(value), low), high)
        if self.prior.endswith("normal"):
            normal = NormalDist(self._inner(self.mean), self.std)
            below, above = normal.cdf(low), normal.cdf(high)
            return (normal.cdf(inner) - below) / (above - below)
        return (inner - low) / (high - low)

    def count(self) -> float:
        """Return how many different numbers are in the range."""
        return self.high - self.low + 1 if self.integer else math.inf

    def corners(self) -> list[int | float]:
        """Return the bounds."""
        return [int(self.low), int(self.high)] if self.integer else [self.low, self.high]

    def why_outside(self, value: Any) -> str:
        """Return why `value` is not in the range, "" where it is."""
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.integer and value != int(value)):
            return f"must be a {'whole ' if self.integer else ''}number (got {value!r})"
        return "" if self.low <= value <= self.high else f"{value} is outside of {self.low} to {self.high}"

    def _edges(self) -> tuple[float, float]:
        half = 0.5 if self.integer else 0.0  # each whole number has as much room as any other
        return self._inner(self.low - half), self._inner(self.high + half)

    def _inner(self, value: float) -> float:
        return math.log(value) if self.prior.startswith("log") else value

    def _outer(self, value: float) -> float:
        return math.exp(value) if self.prior.startswith("log") else value


@dataclass(frozen=True)
class Choices:
    """One of a list of values of any kind."""

    values: tuple[Any, ...]

    @property
    def ordered(self) -> bool:
        """Whether they are numbers in ascending order, so that neighbours in the list are alike."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)
        return numbers and list(self.values) == sorted(self.values)

    def count(self) -> float:
        """Return how many values there are."""
        return len(self.values)

    def corners(self) -> list[Any]:
        """Return all values."""
        return list(self.values)

    def why_outside(self, value: Any) -> str:
        """Return why `value` is not in the list, "" where it is."""
        return "" if value in self.values else f"{value!r} is not one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Parameter:
    """One thing that is searched. `key` is what it sets; `name` tells it from others that set the same key for
    another model. It applies where the key `when[0]` has one of the values `when[1]`."""

    name: str
    key: str
    domain: Range | Choices
    when: tuple[str, tuple[Any, ...]] | None = None
    place: Key = ()  # where it stands below search.space

    def default(self) -> Any:
        """Return a value in the middle."""
        return self.domain.value(0.5) if isinstance(self.domain, Range) else self.domain.values[0]


@dataclass(frozen=True)
class Space:
    """All parameters; `base` is the job that they vary, as plain data, for conditions on what is not searched."""

    parameters: tuple[Parameter, ...]
    base: dict[str, Any]

    def active(self, values: Values) -> Iterator[Parameter]:
        """Return the parameters that apply where others have these values."""
        return (parameter for parameter in self.parameters if self._applies(parameter, values))

    def look_up(self, values: Values, key: str) -> Any:
        """Return what a trial with these values has at a dotted key: from the values, else from the base."""
        if key == _MODEL_CHOICE or key in values:
            return values.get("model") if key == _MODEL_CHOICE else values[key]
        first, *rest = key.split(".")
        found = values[first] if first in values else self.base.get(first)
        for part in rest:
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def complete(self, chosen: Values) -> Values:
        """Return the values of a trial out of name -> value: those that apply, by the keys that they set."""
        values: Values = {}
        for parameter in self.parameters:  # a condition is on what stands before it
            if self._applies(parameter, values):
                values[parameter.key] = chosen[parameter.name]
        return values

    def names(self, values: Values) -> Values:
        """Return name -> value of all parameters for a trial's values; what does not apply has its default."""
        applies = {parameter.name for parameter in self.active(values)}
        return {
            parameter.name: values[parameter.key] if parameter.name in applies else parameter.default()
            for parameter in self.parameters
        }

    def why_outside(self, values: Values) -> tuple[Key, str]:
        """Return the key and the reason why a named point is not in the space; ((), "") where it is."""
        applies = {parameter.key: parameter for parameter in self.active(values)}
        for key, value in values.items():
            if key not in applies:
                return (key,), f"is not searched here; {allowed(key, applies)}"
            if reason := applies[key].domain.why_outside(value):
                return (key,), reason
        missing = [key for key in applies if key not in values]
        return ((), f"lacks {', '.join(missing)}: a point names every key that applies") if missing else ((), "")

    def most_points(self) -> float:
        """Return how many different points there are at the most: infinitely many with a range of numbers that are
        not whole."""
        return math.prod(parameter.domain.count() for parameter in self.parameters)

    def corners(self) -> Iterator[tuple[Parameter, Any, Values]]:
        """Yield each bound and each choice with the values of a trial that has it and is in the middle elsewhere."""
        for parameter in self.parameters:
            for value in parameter.domain.corners():
                chosen = {other.name: other.default() for other in self.parameters}
                self._make_apply(parameter, chosen)
                chosen[parameter.name] = value
                yield parameter, value, self.complete(chosen)

    def _applies(self, parameter: Parameter, values: Values) -> bool:
        return parameter.when is None or self.look_up(values, parameter.when[0]) in parameter.when[1]

    def _make_apply(self, parameter: Parameter, chosen: Values) -> None:
        """Change what others have so that `parameter` applies, where that can be."""
        if parameter.when is None:
            return
        key, wanted = parameter.when
        for other in self.parameters:
            if other.key == key or (key == _MODEL_CHOICE and other.key == "model"):
                self._make_apply(other, chosen)
                fitting = [value for value in other.domain.corners() if value in wanted]
                chosen[other.name] = fitting[0] if fitting else wanted[0]
            elif other.key == "model" and key.startswith("model."):
                part = key.removeprefix("model.")
                fitting = [value for value in other.domain.values if value.get(part) in wanted]
                chosen[other.name] = fitting[0] if fitting else chosen[other.name]


_MODEL_CHOICE = "model as a whole"  # the condition of a key that belongs to one of several models


def read_space(written: dict[str, Any], base: dict[str, Any]) -> Space:
    """Return the space that a job file has under `search.space`. Raises SpaceError naming the key."""
    parameters: list[Parameter] = []
    if not written:
        raise SpaceError(
            (),
            "must not be empty: name what is searched, as in train.learning_rate: {low: 1.0e-4,"
            " high: 1.0e-2, log: true}",
        )
    for key, value in written.items():
        if not isinstance(key, str) or not (key == "model" or key.startswith(tuple(f"{one}." for one in SEARCHED))):
            raise SpaceError((key,), "cannot be searched: keys under train, model or data.graph can, and model")
        if key == "model":
            parameters += _models(value)
        else:
            parameters.append(_parameter(key, key, value, (key,)))
    space = Space(tuple(parameters), base)
    if "model" in written:
        for parameter in parameters:
            if parameter.key.startswith("model.") and parameter.place[0] != "model":
                raise SpaceError(
                    parameter.place, "stands beside model as a whole: write it inside the model it is of"
                )
    seen: list[str] = []
    for parameter in parameters:
        if parameter.when is not None:
            _check_condition(space, parameter, seen)
        seen.append(parameter.key)
    return space


def _check_condition(space: Space, parameter: Parameter, before: list[str]) -> None:
    key, wanted = parameter.when
    if key == _MODEL_CHOICE:
        return
    place = (*parameter.place, "when")
    searched = {other.key: other for other in space.parameters}
    if key in searched:
        if key not in before:
            raise SpaceError(place, f"is on {key}, which must stand before it")
        for value in wanted:
            if reason := searched[key].domain.why_outside(value):
                raise SpaceError((*place, key), reason)
    elif space.look_up({}, key) is None and not ("model" in searched and key.startswith("model.")):
        raise SpaceError((*place, key), "is neither searched nor set in the job")


def _models(value: Any) -> Iterator[Parameter]:
    """Yield the choice between whole models and the parameters inside each."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(one, dict) for one in value):
        raise SpaceError(
            ("model",), "must be a list of models, as in [{name: schnet, hidden: [32, 64]}, {name: physnet}]"
        )
    fixed, inner = [], []
    for place, model in enumerate(value):
        own = {key: item for key, item in model.items() if not isinstance(item, dict | list)}
        if own in fixed:
            raise SpaceError(("model", place), "is there twice: what two models have fixed must differ")
        fixed.append(own)
        for key, item in model.items():
            if key not in own:
                name = f"model[{place}].{key}"
                inner.append(_parameter(name, f"model.{key}", item, ("model", place, key), (_MODEL_CHOICE, (own,))))
    yield Parameter("model", "model", Choices(tuple(fixed)), None, ("model",))
    yield from inner


def _parameter(name: str, key: str, value: Any, place: Key, when: tuple | None = None) -> Parameter:
    if isinstance(value, list):
        return Parameter(name, key, _choices(value, place), when, place)
    if not isinstance(value, dict):
        raise SpaceError(place, "must be a list of values or a range, as in {low: 1.0e-4, high: 1.0e-2, log: true}")
    keys = _CHOICE_KEYS if "choices" in value else _RANGE_KEYS
    for own in value:
        if own not in keys:
            raise SpaceError((*place, own), f"unknown key; {allowed(own, keys)}")
    if "when" in value:
        if when is not None:
            raise SpaceError((*place, "when"), "cannot stand here: the key applies with the model it is written in")
        when = _condition(value["when"], (*place, "when"))
    if "choices" in value:
        return Parameter(name, key, _choices(value["choices"], (*place, "choices")), when, place)
    return Parameter(name, key, _range(value, place), when, place)


def _condition(value: Any, place: Key) -> tuple[str, tuple[Any, ...]]:
    if not isinstance(value, dict) or len(value) != 1:
        raise SpaceError(place, "must name one key and its values, as in {train.optimizer: [sgd]}")
    [(key, wanted)] = value.items()
    wanted = wanted if isinstance(wanted, list) else [wanted]
    if not wanted or not isinstance(key, str):
        raise SpaceError(place, "must name one key and its values, as in {train.optimizer: [sgd]}")
    return key, tuple(wanted)


def _choices(values: Any, place: Key) -> Choices:
    if not isinstance(values, list) or not values:
        raise SpaceError(place, "must be a list of values, at least one")
    if any(values.count(value) > 1 for value in values):
        raise SpaceError(place, f"names a value twice (got {values})")
    return Choices(tuple(values))


def _range(value: dict[str, Any], place: Key) -> Range:
    for key in ("low", "high"):
        if key not in value:
            raise SpaceError(place, f"lacks {key}: a range has low and high, both included")
    for key in ("low", "high", "mean", "std"):
        number = value.get(key, 0)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise SpaceError((*place, key), f"must be a finite number (got {number!r})")
    low, high, log = value["low"], value["high"], value.get("log", False)
    prior = value.get("prior", "log_uniform" if log else "uniform")
    if not isinstance(log, bool) or prior not in PRIORS:
        raise SpaceError(place, f"log must be true or false, and prior one of {', '.join(PRIORS)}")
    if log and not prior.startswith("log"):
        prior = f"log_{prior}"
    if low >= high:
        raise SpaceError(
            place, f"is {'empty' if low == high else 'inverted'}: low ({low}) must be less than high ({high})"
        )
    if prior.startswith("log") and low <= 0:
        raise SpaceError((*place, "low"), f"must be greater than 0 on a log scale (got {low})")
    if not prior.endswith("normal"):
        if other := [key for key in ("mean", "std") if key in value]:
            raise SpaceError((*place, other[0]), "belongs to prior normal or log_normal")
        return Range(low, high, _whole(low, high), prior)
    middle = math.sqrt(low * high) if prior.startswith("log") else (low + high) / 2
    width = math.log(high / low) if prior.startswith("log") else high - low
    mean, std = value.get("mean", middle), value.get("std", width / 4)
    if std <= 0 or not low <= mean <= high:
        raise SpaceError(place, f"mean ({mean}) must lie between low and high, and std ({std}) above 0")
    return Range(low, high, _whole(low, high), prior, mean, std)


def _whole(low: float, high: float) -> bool:
    return isinstance(low, int) and isinstance(high, int)
