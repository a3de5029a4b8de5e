"""Tables of studies: as rows for CSV and JSON, and on a terminal, with published studies beside one's own."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.bench import pareto
from hpc_kit.bench.statistics import LEVEL
from hpc_kit.bench.studies import Estimate, Place, Study, costs, estimates, label, samples, without_value
from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.text import in_unit

SURE = 0.95  # share of draws from which on a member of a front is called certain


def table_rows(ours: Sequence[Study], published: Sequence[Study]) -> Iterator[dict[str, Any]]:
    """Yield a row a study and cell, of studies of one measure. What a cell lacks is None, and `missing` says why;
    nothing is ever zero for that. deviation_from_X = (value - that of the published study X) / that of X."""
    others = {study.name: estimates(study, 0) for study in published}
    for study in (*ours, *published):
        found, measure = estimates(study, 0), study.measures[0]
        for place, cell in study.cells.items():
            one = found.get(place)
            off = {f"deviation_from_{name}": deviation(one, theirs.get(place)) for name, theirs in others.items()}
            yield {
                "study": study.name,
                **dict(zip(study.axes, place, strict=True)),
                "measure": measure.key,
                "unit": "" if study.over else measure.unit,
                "normalised_to": ",".join(study.over) if study.over else None,
                **_numbers(one),
                "missing": "; ".join(cell.missing) or None,
                "unfit": "; ".join(cell.unfit) or None,
                **(off if study in ours else {}),
            }


def pareto_rows(studies: Sequence[Study]) -> Iterator[dict[str, Any]]:
    """Yield a row a study and cell: its place in the plane of two measures, whether it is in the front, in what share
    of draws, and which cells dominate it. `printed_front` counts the members of a front that was printed."""
    for study in studies:
        points = costs(study)
        front = pareto.front(points)
        shares = pareto.certainty(samples(study)) if points else {}
        found = [estimates(study, number) for number in range(len(study.measures))]
        for place, cell in study.cells.items():
            row = {"study": study.name, **dict(zip(study.axes, place, strict=True))}
            for measure, means in zip(study.measures, found, strict=True):
                numbers = _numbers(means.get(place))
                row[measure.key] = numbers.pop("value")
                row |= {f"{measure.key}_{key}": value for key, value in numbers.items() if key != "runs"}
            here = place in points
            row["runs"] = len(cell.values)
            row["in_front"] = place in front if here else None
            row["share_of_draws"] = shares.get(place)
            others = pareto.dominators(points, place) if here else []
            row["dominated_by"] = " ".join(label(other) for other in others) or None
            if any(s.printed_front for s in studies):
                printed = study.printed_front
                row["printed_front"] = printed.index(place) + 1 if place in printed else None
            row["missing"] = "; ".join(cell.missing) or None
            row["unfit"] = "; ".join(cell.unfit) or None
            yield row


def deviation(ours: Estimate | None, theirs: Estimate | None) -> float | None:
    """Return (ours - theirs) / theirs; None where there is one of them only, or theirs is zero."""
    return None if ours is None or theirs is None or not theirs.value else (ours.value - theirs.value) / theirs.value


def print_tables(ours: Sequence[Study], published: Sequence[Study], axes: tuple[str, str], console: Console) -> None:
    """Print the table of each study of one measure, and how far each of ours is from each published one.

    axes: the keys of rows and columns; for each combination of the others there is a table.
    """
    for study in (*ours, *published):
        texts = {place: _in_words(one, study, 0) for place, one in estimates(study, 0).items()}
        texts |= {place: "missing" for place in without_value(study)}
        _print(study, f"{study.name}: {heading(study, 0)}", texts, axes, console)
    for study in ours:
        for other in published:
            _print_deviations(study, other, axes, console)
        _print_missing(study, console)


def heading(study: Study, number: int) -> str:
    """Return what the numbers of a study's table are."""
    measure = study.measures[number]
    return f"{measure.name}, that of {label(study.over)} = 1" if study.over else measure.name


def print_pareto(studies: Sequence[Study], console: Console) -> None:
    """Print the front of each study, member by member, and which cells may be in it."""
    for study in studies:
        rows = [row for row in pareto_rows([study]) if row["in_front"] or (row["share_of_draws"] or 0) >= 1 - SURE]
        rows.sort(key=lambda row: row[study.measures[0].key] * study.measures[0].sign)
        title = f"{study.name}: front of {' and '.join(heading(study, n) for n in range(len(study.measures)))}"
        console.print(title, soft_wrap=True, highlight=False)
        table = Table()
        for name in ("cell", *(m.name for m in study.measures), "in the\nfront", "share of\ndraws", "dominated by"):
            table.add_column(name, justify="left" if name in ("cell", "dominated by") else "right", overflow="fold")
        found = [estimates(study, number) for number in range(len(study.measures))]
        for row in rows:
            place = tuple(row[axis] for axis in study.axes)
            texts = [_in_words(means[place], study, n) for n, means in enumerate(found)]
            share = "-" if row["share_of_draws"] is None else f"{row['share_of_draws']:.1%}"
            table.add_row(label(place), *texts, "yes" if row["in_front"] else "no", share, row["dominated_by"] or "")
        console.print(table)
        for line in front_in_words(study):
            console.print(line, soft_wrap=True, highlight=False)
        _print_missing(study, console)


def unfit_in_words(study: Study) -> list[str]:
    """Return how many runs had a busy or throttled machine, and the first of them."""
    found = [f"{label(place)} {reason}" for place, cell in study.cells.items() for reason in cell.unfit]
    runs = sum(len({reason.partition(":")[0] for reason in cell.unfit}) for cell in study.cells.values())
    of = sum(len(cell.values) for cell in study.cells.values())
    if not found:
        return []
    return [f"unfit: {runs} of {of} runs had no quiet machine, and their times say little: {found[0]}"]


def front_in_words(study: Study) -> list[str]:
    """Return the front in a line, and which members are certain, by the draws over runs."""
    points = costs(study)
    lines = [f"front: {'-'.join(label(place) for place in pareto.front(points))}"]
    if study.printed_front:
        lines.append(f"as printed: {'-'.join(label(place) for place in study.printed_front)}")
    shares = {place: share for place, share in pareto.certainty(samples(study)).items() if share is not None}
    if shares:
        certain = [label(place) for place in pareto.front(points) if shares.get(place, 0) >= SURE]
        open_ = [label(place) for place, share in shares.items() if 1 - SURE < share < SURE]
        lines.append(f"in at least {SURE:.0%} of draws over runs: {' '.join(certain) or 'none'}")
        lines.append(f"undecided, in {1 - SURE:.0%} to {SURE:.0%} of draws: {' '.join(open_) or 'none'}")
    elif not study.half:
        lines.append("how certain its members are cannot be said of one run a cell: give the job several seeds")
    return lines


def axes_of_table(study: Study, rows: str | None, columns: str | None) -> tuple[str, str]:
    """Return the axes of a table's rows and columns: those named, else the first two that are left."""
    for option, axis in (("--rows", rows), ("--columns", columns)):
        if axis is not None and axis not in study.axes:
            raise InputError(f"{option} {axis}: no axis of {study.name}; {allowed(axis, study.axes)}")
    if rows is not None and rows == columns:
        raise InputError(f"--rows and --columns are both {rows}")
    left = [axis for axis in study.axes if axis not in (rows, columns)]
    rows = rows or left.pop(0)
    return rows, columns or (left[0] if left else "")


def grid_of(study: Study, axes: tuple[str, str]) -> dict[str, tuple[list[str], list[str], dict]]:
    """Return for each combination of the axes that are neither rows nor columns: its name, the values of rows and
    columns in the order of the grid, and (row, column) -> cell."""
    places = {}
    for place in study.cells:
        at = dict(zip(study.axes, place, strict=True))
        row, column = at.pop(axes[0]), at.pop(axes[1], "")
        name = ", ".join(f"{key}={value}" for key, value in at.items())
        places.setdefault(name, {})[row, column] = place
    return {
        name: (list(dict.fromkeys(r for r, _ in found)), list(dict.fromkeys(c for _, c in found)), found)
        for name, found in places.items()
    }


def _print(study: Study, title: str, texts: dict[Place, str], axes: tuple[str, str], console: Console) -> None:
    for name, (rows, columns, places) in grid_of(study, axes).items():
        sides = f"rows: {_short(axes[0])}" + (f", columns: {_short(axes[1])}" if axes[1] else "")
        console.print(f"{title}{f' ({name})' if name else ''}; {sides}", soft_wrap=True, highlight=False)
        table = Table()
        table.add_column("", overflow="fold")
        for column in columns:
            table.add_column(column, justify="right", overflow="fold")
        for row in rows:
            table.add_row(row, *(texts.get(places.get((row, column)), "-") for column in columns))
        console.print(table)


def _print_deviations(study: Study, other: Study, axes: tuple[str, str], console: Console) -> None:
    ours, theirs = estimates(study, 0), estimates(other, 0)
    found = {p: d for p in ours if (d := deviation(ours[p], theirs.get(p))) is not None}
    if not found:
        console.print(f"{other.name}: no cell is also one of {study.name}", soft_wrap=True, highlight=False)
        return
    _print(study, f"deviation from {other.name}", {p: f"{d:+.1%}" for p, d in found.items()}, axes, console)
    worst = max(found, key=lambda place: abs(found[place]))
    known = [place for place in found if ours[place].low is not None and place != study.over]
    inside = sum(ours[place].low <= theirs[place].value <= ours[place].high for place in known)
    text = f"largest deviation: {found[worst]:+.1%} at {label(worst)}"
    if known:
        text += f"; {inside} of {len(known)} values of {other.name} lie within our {LEVEL:.0%} interval"
    console.print(text, soft_wrap=True, highlight=False)


def _print_missing(study: Study, console: Console) -> None:
    for place, cell in study.cells.items():
        for reason in cell.missing:
            console.print(f"missing: {label(place)} {reason}", soft_wrap=True, highlight=False)
    for line in unfit_in_words(study):
        console.print(line, soft_wrap=True, highlight=False)


def _in_words(estimate: Estimate, study: Study, number: int) -> str:
    unit = "" if study.over else study.measures[number].unit
    form = ".3f" if study.over else ".4g"
    text = in_unit(estimate.value, unit, form).strip()
    if estimate.low is None or estimate.low == estimate.high:
        return text
    return f"{text}\n{in_unit(estimate.low, unit, form, False)}-{in_unit(estimate.high, unit, form, False)}"


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"value": None, "low": None, "high": None, "runs": 0}
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "runs": estimate.runs}


def _short(axis: str) -> str:
    return axis.rpartition(".")[2]
