"""Figures of studies for papers: vector files (SVG, PDF) by matplotlib, each beside a CSV file of its numbers.

Colours are those of Okabe and Ito, as on the pages (svg.py). Text stays text in both formats. The same numbers give
the same file, byte for byte. Not for: the drawings of a page (study_page.py).
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hpc_kit.bench import pareto
from hpc_kit.bench.studies import Place, Study, costs, estimates, label
from hpc_kit.bench.study_tables import grid_of, heading, pareto_rows, table_rows
from hpc_kit.files import make_folder, write_atomically
from hpc_kit.spec.errors import InputError, WorkError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LOG_ABOVE = 5.0  # an axis whose largest value is more than that many times the least is logarithmic
NEAR = 1.6  # how many times the least value the second drawing of such a plane shows
LOOK = {"svg.fonttype": "none", "svg.hashsalt": "hpc_kit", "pdf.fonttype": 42, "font.size": 9, "axes.grid": False}
Studies = tuple[Sequence[Study], Sequence[Study]]  # our own, published ones
FORMATS = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}}


def write_tables(parts: Sequence[Studies], axes: tuple[str, str], folder: Path, force: bool) -> list[Path]:
    """Write table.csv, and for each measure of each study its table as a figure. Return the files.

    parts: studies of our own and published ones, a pair of lists a measure. Raises InputError where a file is there
    and `force` is not given, or the folder cannot be written.
    """
    drawings = {}
    for study in (study for part in parts for study in (*part[0], *part[1])):
        name = f"table-{study.name}-{study.measures[0].key}".replace(":", "-").replace("/", "-")
        drawings[name] = lambda canvas, study=study: _heat(canvas, study, axes)
    rows = [row for part in parts for row in table_rows(*part)]
    return _write(folder, {"table": rows}, drawings, force)


def write_pareto(studies: Sequence[Study], folder: Path, force: bool) -> list[Path]:
    """Write pareto.csv, and the studies' cells and fronts in the plane of their two measures as pareto.svg and
    pareto.pdf: the first measure across, the second up. Return the files. Raises InputError as write_tables does."""
    rows = {"pareto": list(pareto_rows(studies))}
    return _write(folder, rows, {"pareto": lambda plot: _pareto(plot, studies)}, force)


def write_figure(
    folder: Path, name: str, rows: list[dict[str, Any]], draw: Callable[[Any], Any], force: bool
) -> list[Path]:
    """Write `rows` as CSV, and the figure that `draw`, called with matplotlib.pyplot, returns."""
    return _write(folder, {name: rows}, {name: draw}, force)


def _write(
    folder: Path, tables: dict[str, list[dict]], drawings: dict[str, Callable[[Any], Any]], force: bool
) -> list[Path]:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise InputError("matplotlib is not installed: pip install 'hpc-kit[plots]'") from None
    contents = {folder / f"{name}.csv": csv_of(rows).encode() for name, rows in tables.items()}
    for name, draw in drawings.items():
        with matplotlib.rc_context(LOOK):
            figure = draw(_canvas)
            for kind, metadata in FORMATS.items():
                written = io.BytesIO()
                figure.savefig(written, format=kind, metadata=metadata)
                contents[folder / f"{name}.{kind}"] = written.getvalue()
    make_folder(folder, contents, force)
    try:
        for path, content in contents.items():
            write_atomically(path, content)
    except OSError as error:
        raise WorkError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    return list(contents)


def csv_of(rows: Iterable[dict[str, Any]]) -> str:
    """Return rows as CSV; columns are those of all rows in the order in which they come up, None is empty."""
    rows, text = list(rows), io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    table = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _canvas(width: float, height: float, rows: int = 1, **more: Any) -> tuple[Any, Any]:
    """Return a figure of so many inches and its axes, without a window and without pyplot's list of open figures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, **more)


def _pareto(canvas: Callable, studies: Sequence[Study]) -> Any:
    """Cells and fronts; where the second measure spans a wide range, once more without what is far from the least."""
    ups = [e.value for study in studies for e in estimates(study, 1).values()]
    wide = min(ups) > 0 and max(ups) > LOG_ABOVE * min(ups)
    figure, planes = canvas(9.6 if wide else 6.4, 4.4, 1, ncols=2 if wide else 1, squeeze=False)
    for plane in planes[0]:
        _cells_and_fronts(plane, studies)
        plane.set_xlabel(axis_title(studies, 0))
        plane.set_ylabel(axis_title(studies, 1))
    planes[0][0].legend(fontsize=7, frameon=False)
    if wide:
        _logarithmic(planes[0][0])
        planes[0][0].set_title("all cells", fontsize=8)
        planes[0][1].set_ylim(min(ups) * 0.95, min(ups) * NEAR)
        planes[0][1].set_title(f"up to {NEAR:g} times the least", fontsize=8)
    return figure


def _cells_and_fronts(plane: Any, studies: Sequence[Study]) -> None:
    for number, study in enumerate(studies):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        means = [estimates(study, measure) for measure in (0, 1)]
        front = pareto.front(costs(study))
        for place in means[0]:
            across, up = (found[place] for found in means)
            bars = [None if e.low is None else [[e.value - e.low], [e.high - e.value]] for e in (across, up)]
            within = place in front
            plane.errorbar(
                across.value, up.value, xerr=bars[0], yerr=bars[1], fmt=marker, ms=4.5, color=colour, elinewidth=0.6,
                mfc=colour if within else "white", alpha=1.0 if within else 0.6,
            )  # fmt: skip
            if within:
                offset = (3, 4) if number == 0 else (-3, -9)
                plane.annotate(
                    label(place), (across.value, up.value), xytext=offset, textcoords="offset points", fontsize=6,
                    color=colour, annotation_clip=True,
                )  # fmt: skip
        line = [[found[place].value for place in front] for found in means]
        plane.plot(
            *line, color=colour, marker=marker, ms=4.5, lw=1.2, label=f"{study.name}: front (filled), other cells"
        )


def _logarithmic(plane: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    plane.set_yscale("log")
    plane.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    plane.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    plane.yaxis.set_minor_formatter(NullFormatter())


def axis_title(studies: Sequence[Study], measure: int) -> str:
    """Return the text of an axis: the measure with its unit, or what it is over."""
    over = {study.over for study in studies}
    if over == {None}:
        return studies[0].measures[measure].title
    names = " or ".join(label(place) for place in over if place)
    return f"{studies[0].measures[measure].name} / that of {names}"


def _heat(canvas: Callable, study: Study, axes: tuple[str, str]) -> Any:
    """A table in colours, dark where the value is low; a cell without a value is hatched and says so."""
    from matplotlib.colors import LogNorm, Normalize

    parts, found = grid_of(study, axes), estimates(study, 0)
    values = [estimate.value for estimate in found.values()] or [0.0, 1.0]
    steep = min(values) > 0 and max(values) > LOG_ABOVE * min(values)
    scale = (LogNorm if steep else Normalize)(min(values), max(values))
    widest = max(len(columns) for _, columns, _ in parts.values())
    height = sum(0.42 * len(rows) + 1.1 for rows, _, _ in parts.values())
    figure, planes = canvas(1.8 + 0.95 * widest, height, len(parts), squeeze=False)
    for plane, (name, (rows, columns, places)) in zip(planes[:, 0], parts.items(), strict=True):
        shown = [[_value(found, places.get((row, column))) for column in columns] for row in rows]
        image = plane.imshow(shown, norm=scale, cmap="cividis", aspect="auto")
        plane.set_xticks(range(len(columns)), columns)
        plane.set_yticks(range(len(rows)), rows)
        plane.set_xlabel(axes[1])
        plane.set_ylabel(axes[0])
        plane.set_title(f"{study.name}{f', {name}' if name else ''}", fontsize=8)
        for y, line in enumerate(shown):
            for x, value in enumerate(line):
                there = value == value  # not NaN
                text = f"{value:.3g}" if there else "missing"
                light = there and scale(value) < 0.5
                plane.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if light else "black")
                if not there:
                    plane.add_patch(_hatch(x, y))
        title = heading(study, 0) if study.over else study.measures[0].title
        bar = figure.colorbar(image, ax=plane)
        bar.set_label(title, fontsize=7)
        if steep:
            _logarithmic(bar.ax)
    return figure


def _hatch(x: int, y: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="///", lw=0, color="#888888")


def _value(found: dict[Place, Any], place: Place | None) -> float:
    return found[place].value if place in found else float("nan")
