"""What benchmarks add to the page of a run: epoch times, phases, scaling. The login side."""

from collections.abc import Iterator
from typing import Any

from hpc_kit.bench.scaling import Series
from hpc_kit.bench.study_page import sections_of_any
from hpc_kit.bench.summary import columns, kind, spread, summarize, table_rows
from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.status import read_statuses
from hpc_kit.runs.used import used
from hpc_kit.svg import COLOURS, Marks, Section, plot

__all__ = ["sections", "sections_of_any"]

SHOWN = ("data_wait_s", "transfer_s", "forward_s", "backward_s", "optimizer_s", "evaluation_s", "checkpoint_s")


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections of a run of benchmarks."""
    states, spent = {status.id: status for status in read_statuses(run)}, used(run)
    found = summarize(run, plan.tasks, states, spent.tasks if spent else {})
    rows = found["benchmarks"]
    yield _epochs(run, plan, rows)
    if done := [row for row in rows if row.get("phases")]:
        yield _phases(done)
    for fields in found["scaling"]:
        yield _scaling(Series(**fields), spent.unit if spent else "cost")


def _epochs(run: RunDir, plan: Plan, rows: list[dict[str, Any]]) -> Section:
    settings = list(dict.fromkeys(task.setting for task in plan.tasks))
    marks, table = [], []
    for task, row in zip(plan.tasks, rows, strict=True):
        lines = [line for line in run.task(task.id).read_epochs() if line["wall_s"] is not None]
        colour = settings.index(task.setting) % COLOURS
        for warmup in (True, False):
            some = [line for line in lines if (line.get("warmup") is not False) == warmup]
            texts = [f"{task.label}: epoch {line['epoch'] + 1}, {line['wall_s']:.4g} s" for line in some]
            x, y = [line["epoch"] + 1 for line in some], [line["wall_s"] for line in some]
            marks.append(Marks(x, y, "points", colour, "" if warmup else task.setting, texts, faint=warmup))
        if row["state"] == "done":
            fit = "; ".join(row["unfit"]) or "yes"
            speed = f"{row['graphs_per_s']:.4g}"
            energy = ", ".join(f"{part} {_joules(value)}" for part, value in row["energy_j"].items())
            table.append((row["label"], f"{row['median_epoch_s']:.4g} s", spread(row), speed, energy, fit))
        else:
            table.append((row["label"], row["state"], "-", "-", "-", row["why"] or "-"))
    figure = plot("time of each epoch; those of warm-up are faint", "epoch", "seconds", marks, whole_x=True)
    columns = ("task", "median epoch", "95 % interval", "graphs/s", "energy an epoch", "fit to be compared")
    return Section("Timed epochs", "The slowest rank is the epoch.", [figure], columns, table)


def _phases(done: list[dict[str, Any]]) -> Section:
    below, bars = [0.0] * len(done), []
    for colour, part in enumerate((*SHOWN, "rest")):
        values = [_rest(row) if part == "rest" else row["phases"][part] for row in done]
        tops = [low + value for low, value in zip(below, values, strict=True)]
        name = part.removesuffix("_s").replace("_", " ")
        texts = [f"{row['label']}: {name} {value:.3g} s" for row, value in zip(done, values, strict=True)]
        bars.append(Marks(range(len(done)), tops, "bars", colour % COLOURS, name, texts, below))
        below = tops
    names = [row["label"] for row in done] if len(done) <= 8 else [str(n) for n in range(1, len(done) + 1)]
    sums = [row["phases"]["all_reduce_s"] for row in done]
    rows = [
        (row["label"], f"{value:.3g} s", f"{value / row['median_epoch_s']:.0%}")
        for row, value in zip(done, sums, strict=True)
        if value is not None
    ]
    text = (
        "Medians of each phase of the slowest rank. Sums over the ranks run beside the backward pass, within its bar."
    )
    figure = plot("phases of an epoch", "task", "seconds", bars, names=names)
    return Section("Phases", text, [figure], ("task", "sums over the ranks", "of the epoch"), rows)


def _rest(row: dict[str, Any]) -> float:
    return max(0.0, row["median_epoch_s"] - sum(row["phases"][part] for part in SHOWN))


def _scaling(series: Series, unit: str) -> Section:
    points = series.points
    sizes = [point["size"] for point in points]
    figures = []
    for key, name, ideal in (("speedup", "speed-up", True), ("efficiency", "efficiency", False)):
        values = [point[key] for point in points]
        texts = [f"{point['label']}: {name} {point[key]:.2f}" for point in points]
        ends = [(point["size"], point[f"{key}_interval"]) for point in points if point[f"{key}_interval"]]
        perfect = [size / sizes[0] if ideal else 1.0 for size in sizes]
        marks = [
            Marks(sizes, perfect, "line", 7, "ideal", faint=True),
            *(Marks([size, size], ends_of, "line", 0, faint=True) for size, ends_of in ends),
            Marks(sizes, values, "line", 0, "measured"),
            Marks(sizes, values, "points", 0, texts=texts),
        ]
        figures.append(plot(f"{name} over {series.unit}", series.unit, name, marks, whole_x=True))
    said = [f"{kind(series)}.", *series.missing, series.verdict]
    title = f"Scaling {series.setting}".strip()
    return Section(title, " ".join(filter(None, said)), figures if points else [], columns(unit), table_rows(series))


def _joules(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g} J"
