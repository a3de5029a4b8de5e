"""The section of a page for a run over a grid, of whatever kind: cells over seeds, the front of error and time,
published studies beside them; deviations from published errors where the grid varies targets. The login side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hpc_kit.bench import deviations as of_targets
from hpc_kit.bench import pareto
from hpc_kit.bench.deviations import AXIS, Deviation, deviations, in_words
from hpc_kit.bench.published import Table, published_studies, read_published, shipped
from hpc_kit.bench.studies import Estimate, Study, costs, estimates, label, normalised, read_study, samples
from hpc_kit.bench.study_tables import deviation, front_in_words, heading, unfit_in_words
from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.errors import InputError
from hpc_kit.svg import COLOURS, Figure, Marks, Section, plot
from hpc_kit.text import in_unit

WANTED = ("epoch_s", "test_mae")


def sections_of_any(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections for a run whose grid has several cells, as far as its tasks have come."""
    if len({task.setting for task in plan.tasks}) < 2:
        return
    tables = [read_published(name) for name in shipped()]
    if tuple(plan.tasks[0].cell) == (AXIS,) and plan.kind == "train":
        for table in (table for table in tables if table.axes == (AXIS,)):
            try:
                found = deviations(run, table)
            except InputError:  # none of its targets is one of the table's
                continue
            if any(one.within is not None for one in found):
                yield _deviations(found, table)
        return
    study = _study(run)
    if study is not None:
        beside = [table for table in tables if sorted(table.axes) == sorted(study.axes)]
        yield _section(study, beside[0] if beside else None)


def _study(run: RunDir) -> Study | None:
    """Return the run's cells in what was measured of error and time; None where nothing was yet."""
    for names in (WANTED, WANTED[:1], WANTED[1:]):
        try:
            study = read_study(run, names)
        except InputError:  # no task has measured all of them
            continue
        if any(len(cell.values) for cell in study.cells.values()):
            return study
    return None


def _section(study: Study, table: Table | None) -> Section:
    theirs: list[Study] = []
    if table is not None:
        try:
            theirs = published_studies(table, study.axes, study.measures)
            over = theirs[0].over
            if over is not None:
                study = normalised(study, over) if over in study.cells else study
        except InputError:  # that cell has no value yet
            theirs = []
        theirs = theirs if study.over else []
    two = len(study.measures) == 2
    figures = [_plane([study, *theirs])] if two else []
    text = "A row a cell of the grid: means over seeds, in brackets their 95 % interval."
    if two:
        text += f" {study.name}: {'; '.join(front_in_words(study))}."
        text += " A cell is in the front where no other is better in one measure and no worse in the other."
    text += "".join(f" {line[0].upper()}{line[1:]}." for line in unfit_in_words(study))
    if theirs:
        text += f" Beside it {' and '.join(t.name for t in theirs)}: {'; '.join(table.notes[1:3])}."
    columns, rows = _rows(study, theirs)
    return Section("Study", text, figures, columns, rows)


def _rows(study: Study, theirs: Sequence[Study]) -> tuple[list[str], list[tuple[str, ...]]]:
    columns, two = [", ".join(study.axes), "runs"], len(study.measures) == 2
    points = costs(study)
    front = pareto.front(points) if two else []
    shares = pareto.certainty(samples(study)) if two else {}
    rows = {place: [label(place), str(len(cell.values))] for place, cell in study.cells.items()}
    for number, measure in enumerate(study.measures):
        found, unit = estimates(study, number), "" if study.over else measure.unit
        columns += [heading(study, number), *(f"deviation from {other.name}" for other in theirs)]
        others = [estimates(other, number) for other in theirs]
        for place, row in rows.items():
            one = found.get(place)
            row.append(_with_interval(one, unit))
            off = [deviation(one, other.get(place)) for other in others]
            row += ["-" if value is None else f"{value:+.1%}" for value in off]
    if two:
        columns += ["in the front", "share of draws"]
        for place, row in rows.items():
            row.append(("yes" if place in front else "no") if place in points else "-")
            row.append("-" if shares.get(place) is None else f"{shares[place]:.1%}")
    if any(cell.missing for cell in study.cells.values()):
        columns.append("missing")
        for place, row in rows.items():
            row.append("; ".join(study.cells[place].missing) or "-")
    return columns, [tuple(row) for row in rows.values()]


def _with_interval(one: Estimate | None, unit: str) -> str:
    if one is None:
        return "missing"
    text = in_unit(one.value, unit)
    if one.low is None or one.low == one.high:
        return text
    low, high = (in_unit(value, unit, ".3g", False) for value in (one.low, one.high))
    return f"{text} ({low} to {high})"


def _plane(studies: Sequence[Study]) -> Figure:
    marks = []
    for number, study in enumerate(studies):
        across, up = (estimates(study, measure) for measure in (0, 1))
        front = pareto.front(costs(study))
        line = [[found[place].value for place in front] for found in (across, up)]
        colour = number % COLOURS
        marks.append(Marks(*line, "line", colour))
        texts = [
            f"{study.name} {label(place)}: {across[place].value:.4g}, {up[place].value:.4g}"
            f"{', in the front' if place in front else ''}"
            for place in across
        ]
        values = [[found[place].value for place in across] for found in (across, up)]
        marks.append(Marks(*values, "points", colour, f"{study.name}, line: front", texts))
    first = studies[0]
    titles = [heading(first, n) if first.over else first.measures[n].title for n in (0, 1)]
    log = min(min(m.y, default=1.0) for m in marks) > 0
    return plot("error against time", *titles, marks, log_y=log)


def _deviations(found: Sequence[Deviation], table: Table) -> Section:
    known = [one for one in found if one.within is not None]
    bars = [
        Marks([place], [100 * one.max], "bars", 0, "least to greatest of the seeds", y0=[100 * one.min], faint=True)
        for place, one in enumerate(known)
    ]
    texts = [f"{one.property}: mean {one.mean:+.1%}, {one.min:+.1%} to {one.max:+.1%}" for one in known]
    places = list(range(len(known)))
    means = Marks(places, [100 * one.mean for one in known], "points", 1, "mean", texts)
    zero = Marks([-0.5, len(known) - 0.5], [0.0, 0.0], "line", 7)
    names = [one.target for one in known] if len(known) <= 8 else [str(place + 1) for place in places]
    counts = [Marks([p], [one.graphs], "bars", 2, y0=[0.0]) for p, one in enumerate(known)]
    figures = [
        plot("deviation of each target", "target", "MAE deviation / %", [*bars, means, zero], names=names),
        plot("data of each target", "target", "structures", counts, names=names),
    ]
    columns = ("", "target", "seeds", "MAE, mean", "published", "min", "max", "mean", "std", "within", "structures")
    rows = []
    for place, one in enumerate(found, 1):
        row = of_targets.deviation_rows([replace(one, missing=[])])[0]
        off = ["-" if row[key] is None else f"{row[key]:+.1%}" for key in ("min", "max", "mean")]
        std = "-" if one.std is None else f"{one.std:.1%}"
        mae = in_unit(sum(one.maes) / len(one.maes), one.unit) if one.maes else f"missing: {'; '.join(one.missing)}"
        within = {None: "-", True: "yes", False: "no"}[one.within]
        published = in_unit(one.published, one.unit)
        numbers = (str(len(one.maes)), mae, published, *off, std, within, str(one.graphs or "-"))
        rows.append((str(place), one.target, *numbers))
    text = f"{'; '.join(in_words(found))}. Published: {'; '.join(table.notes[1:2])}."
    return Section("Deviation from published errors", text, figures, columns, rows)
