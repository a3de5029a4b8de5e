"""Drawings of searches, from plain numbers: history, best so far with bands, distributions, parallel coordinates,
slices, the Pareto set. page.py chooses what to draw."""

import math
from collections.abc import Sequence
from typing import Any

from hpc_kit.svg import COLOURS, Figure, Marks, plot

MOST_LINES = 300  # in parallel coordinates: the best ones
BEST_SHARE = 0.1  # of the trials, drawn in colour there
TIMES = 120  # at which the best so far is drawn against time
_BEST, _REST = 6, 2

Numbers = Sequence[float | None]


def history(series: Sequence[tuple[str, list[tuple[int, float, str]]]], axis: str) -> Figure:
    """Return the error of each trial by number, and the best so far of each search. `series`: for each search its
    strategy, which has a colour, and its trials as (number, error, text)."""
    marks, sides = [], list(dict.fromkeys(side for side, _ in series))
    for side, points in series:
        colour, best = (sides.index(side) + 1) % COLOURS, math.inf
        numbers, texts = [number for number, _, _ in points], [text for _, _, text in points]
        marks.append(Marks(numbers, [error for _, error, _ in points], "points", colour, texts=texts))
        steps = [best := min(best, error) for _, error, _ in points]
        marks.append(Marks(numbers, steps, "line", colour, side))
    return plot("error of each trial, and the best so far", "trial", axis, marks, log_y=True, whole_x=True)


def best_so_far(
    caption: str, x_label: str, axis: str, curves: dict[str, tuple[list[float], list[list[float]]]]
) -> Figure:
    """Return the median over searches of the best so far, and the band that holds the middle half of them.

    `curves`: side -> places on the x axis at even distances, and for each search its best there (inf: none yet).
    """
    bands, lines = [], []
    for colour, (name, (xs, several)) in enumerate(curves.items(), 1):
        each = [sorted(values) for values in zip(*several, strict=True)]
        low, middle, high = ([_at(values, share) for values in each] for share in (0.25, 0.5, 0.75))
        shown = [place for place in range(len(xs)) if math.isfinite(high[place]) and high[place] > 0]
        step = xs[1] - xs[0] if len(xs) > 1 else 1.0
        if len(several) > 1:
            tops, bottoms = [high[n] for n in shown], [low[n] for n in shown]
            bands.append(Marks([xs[n] for n in shown], tops, "bars", colour, y0=bottoms, width=step, faint=True))
        texts = [f"{name}: {middle[n]:.4g} ({low[n]:.4g} to {high[n]:.4g}) at {xs[n]:.4g}" for n in range(len(xs))]
        lines.append(Marks(xs, middle, "line", colour, f"{name}, {len(several)} searches", texts))
    return plot(caption, x_label, axis, [*bands, *lines], log_y=True)


def distributions(groups: dict[str, list[float]], axis: str) -> Figure:
    """Return the errors of all trials of each side: a point a trial, a box from quartile to quartile with its
    median, as in figure 1 of the framework's paper."""
    marks = []
    for place, (name, errors) in enumerate(groups.items()):
        ordered, colour = sorted(errors), place + 1
        low, middle, high = (_at(ordered, share) for share in (0.25, 0.5, 0.75))
        marks.append(Marks([place], [high], "bars", colour, name, y0=[low], width=0.5, faint=True))
        marks.append(Marks([place - 0.25, place + 0.25], [middle] * 2, "line", colour))
        spread = [place + 0.4 * (n * 0.618 % 1 - 0.5) for n in range(len(ordered))]  # beside each other
        marks.append(Marks(spread, ordered, "points", colour, texts=[f"{name}: {error:.4g}" for error in ordered]))
    return plot("errors of all trials", "strategy", axis, marks, log_y=True, names=list(groups))


def parallel(rows: Sequence[tuple[dict[str, Any], float, str]], log_keys: Sequence[str], axis: str) -> Figure | None:
    """Return a line a trial through its values, each axis from its least to its greatest value (choices in the order
    of their names), the last one the error; the best tenth in colour. `rows`: (values, error, text), any order."""
    ordered = sorted(rows, key=lambda row: row[1])[:MOST_LINES]
    keys = [key for key in dict.fromkeys(key for values, _, _ in ordered for key in values)]
    if not keys or len(ordered) < 2:
        return None
    places = [_places([values.get(key) for values, _, _ in ordered], key in log_keys) for key in keys]
    places.append(_places([error for _, error, _ in ordered], min(error for _, error, _ in ordered) > 0))
    marks, best = [], max(1, round(BEST_SHARE * len(ordered)))
    for number in range(len(ordered) - 1, -1, -1):
        ys, top = [column[number] for column in places], number < best
        text = ordered[number][2]
        label = "the best tenth" if number == best - 1 else "other trials" if number == len(ordered) - 1 else ""
        marks.append(
            Marks(range(len(ys)), ys, "line", _BEST if top else _REST, label, [text] * len(ys), faint=not top)
        )
    caption = "parallel coordinates" + (f": the best {MOST_LINES} trials" if len(rows) > MOST_LINES else "")
    return plot(caption, "", "from least to greatest", marks, names=[*(_last(key) for key in keys), axis])


def slices(rows: Sequence[tuple[dict[str, Any], float, str]], log_keys: Sequence[str], axis: str) -> list[Figure]:
    """Return the error against each key's value, a point a trial."""
    figures = []
    for key in dict.fromkeys(key for values, _, _ in rows for key in values):
        found = [(values[key], error, text) for values, error, text in rows if key in values]
        if len({str(value) for value, _, _ in found}) < 2:
            continue
        errors, texts = [error for _, error, _ in found], [text for _, _, text in found]
        if _numeric([value for value, _, _ in found]):
            log = key in log_keys
            xs = [math.log10(value) if log else value for value, _, _ in found]
            label = f"log10 of {key}" if log else key
            figures.append(plot(key, label, axis, [Marks(xs, errors, "points", 5, texts=texts)], log_y=True))
        else:
            names = sorted({str(value) for value, _, _ in found})
            xs = [names.index(str(value)) for value, _, _ in found]
            marks = [Marks(xs, errors, "points", 5, texts=texts)]
            figures.append(plot(key, key, axis, marks, log_y=True, names=names))
    return figures


def pareto(points: Sequence[tuple[float, float, str]], front: Sequence[int], x_label: str, y_label: str) -> Figure:
    """Return two objectives of all trials; those at the places `front`, which no other beats in both, as a line."""
    marks = [
        Marks([p[0] for p in points], [p[1] for p in points], "points", _REST, "trials", [p[2] for p in points]),
        Marks(
            [points[n][0] for n in front],
            [points[n][1] for n in front],
            "line",
            _BEST,
            "Pareto set",
            [points[n][2] for n in front],
        ),
    ]
    return plot("the two objectives", x_label, y_label, marks, log_y=True)


def shares(names: Sequence[str], middle: Numbers, low: Numbers, high: Numbers, told: Sequence[bool]) -> Figure:
    """Return a bar for each share with its range."""
    marks = []
    for place, name in enumerate(names):
        text = f"{name}: {middle[place]:.1%} ({low[place]:.1%} to {high[place]:.1%})"
        colour = 5 if told[place] else 2
        marks.append(Marks([place], [middle[place]], "bars", colour, y0=[0.0], texts=[text], faint=True))
        marks.append(Marks([place, place], [low[place], high[place]], "line", 0))
    return plot("importance", "hyperparameter", "share of the variance", marks, names=[_last(name) for name in names])


def _at(ordered: Sequence[float], share: float) -> float:
    """Return the value nearest to a quantile of ordered values: no mean of a number and infinity."""
    return ordered[round(share * (len(ordered) - 1))]


def _places(values: Sequence[Any], log: bool) -> list[float | None]:
    """Return each value's place between 0 and 1; None where there is none."""
    there = [value for value in values if value is not None]
    if _numeric(there):
        numbers = [None if value is None else math.log10(value) if log else float(value) for value in values]
    else:
        names = sorted({str(value) for value in there})
        numbers = [None if value is None else float(names.index(str(value))) for value in values]
    known = [number for number in numbers if number is not None]
    low, width = min(known), max(known) - min(known)
    return [None if number is None else (number - low) / width if width else 0.5 for number in numbers]


def _numeric(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def _last(key: str) -> str:
    """Return the last part of a dotted key, which fits under an axis; "model" of model.name."""
    return key.removesuffix(".name").rsplit(".", 1)[-1]
