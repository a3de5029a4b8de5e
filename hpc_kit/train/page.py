"""What trainings add to the page of a run: learning curves, errors, where the time went. The login side."""

import statistics
from collections.abc import Iterator

import numpy as np

from hpc_kit.plan import Plan, Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.rows import Column, predictions
from hpc_kit.svg import COLOURS, Marks, Section, plot
from hpc_kit.text import in_unit
from hpc_kit.train.summary import Metrics

MOST_POINTS = 12_000  # in one drawing; the worst stay, of the rest a sample
WORST = 0.1  # of them that many
PARTS = ("data_wait_s", "compute_s", "eval_s", "checkpoint_s")


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections of a run of trainings."""
    colours = _colours(plan.tasks)
    epochs = {task.id: run.task(task.id).read_epochs() for task in plan.tasks}
    done = {task.id: run.task(task.id).read_metrics(Metrics) for task in plan.tasks if run.task(task.id).is_done()}
    if any(epochs.values()):
        yield _learning(plan.tasks, epochs, colours)
    if done:
        yield _over_seeds(plan.tasks, done, colours)
        yield _parity(run, plan, colours)
    if any(epochs.values()):
        yield _times(plan.tasks, epochs, colours)
    if done:
        yield _splits(plan.tasks, done)


def _learning(tasks: list[Task], epochs: dict[str, list[dict]], colours: dict[str, int]) -> Section:
    unit = tasks[0].work.unit
    units = {task.work.unit for task in tasks}
    figures = []
    for key, name in (
        ("train_loss", "training loss"),
        ("val_mae", f"validation MAE / {unit}"),
        ("grad_norm", "gradient norm"),
    ):
        marks = [_curve(task, epochs[task.id], key, colours) for task in tasks if epochs[task.id]]
        if key == "val_mae" and len(units) > 1:
            name = "validation MAE, each in its own unit"
        figures.append(
            plot(f"{name.partition(' /')[0]} of each task", "epoch", name, marks, log_y=True, whole_x=True)
        )
    figures[0].legend = _legend(tasks, colours)
    return Section("Learning curves", "A line a task; seeds of one setting share a colour.", figures)


def _curve(task: Task, lines: list[dict], key: str, colours: dict[str, int]) -> Marks:
    values = [line.get(key) for line in lines]
    texts = [f"{task.label}: epoch {line['epoch'] + 1}, {_short(line.get(key))}" for line in lines]
    return Marks([line["epoch"] + 1 for line in lines], values, "line", colours[task.id], texts=texts)


def _over_seeds(tasks: list[Task], done: dict[str, dict], colours: dict[str, int]) -> Section:
    """Test errors of each setting: a point a seed, a bar the mean; the spread in a table."""
    figures, rows = [], []
    targets = dict.fromkeys(name for found in done.values() for name in found["targets"])
    for target in targets:
        settings: dict[str, list[tuple[Task, dict]]] = {}
        for task in tasks:
            if (
                task.id in done
                and (errors := done[task.id]["targets"].get(target))
                and errors["test_mae"] is not None
            ):
                settings.setdefault(task.setting, []).append((task, errors))
        marks = []
        for place, (name, found) in enumerate(settings.items()):
            maes, unit, colour = [e["test_mae"] for _, e in found], found[0][1]["unit"], colours[found[0][0].id]
            mean = statistics.mean(maes)
            marks.append(Marks([place], [mean], "bars", colour, y0=[0.0], faint=True))
            texts = [f"{task.label}: {in_unit(e['test_mae'], unit)}" for task, e in found]
            marks.append(Marks([place] * len(maes), maes, "points", colour, texts=texts))
            deviation = statistics.stdev(maes) if len(maes) > 1 else None
            rows.append(
                (
                    target,
                    name or "all",
                    str(len(maes)),
                    in_unit(mean, unit),
                    in_unit(deviation, unit, ".2g") if deviation is not None else "-",
                    f"{in_unit(min(maes), unit)} to {in_unit(max(maes), unit)}",
                    in_unit(found[0][1]["baseline_mae"], unit),
                )
            )
        if marks:
            names = [name or "all" for name in settings]
            figures.append(plot(f"test MAE of {target}", "setting", f"test MAE / {unit}", marks, names=names))
    columns = ("target", "setting", "seeds", "mean", "std", "range", "guessing the mean")
    return Section("Test errors over seeds", "A point a seed, a bar the mean.", figures, columns, rows)


def _parity(run: RunDir, plan: Plan, colours: dict[str, int]) -> Section:
    """Predicted against true values, and the residuals, of each target."""
    found: dict[str, list[Column]] = {}
    for column in predictions(run, plan):
        found.setdefault(column.target, []).append(column)
    figures, left_out = [], 0
    for target, columns in found.items():
        unit = f" / {columns[0].unit}" if columns[0].unit else ""
        chosen = _sample([column.predicted - column.true for column in columns])
        parity, residuals = [], []
        for column, some in zip(columns, chosen, strict=True):
            true, predicted = column.true[some].tolist(), column.predicted[some].tolist()
            texts = [
                f"{column.ids[place]}: true {_short(t)}, predicted {_short(p)} ({column.task.label})"
                for place, t, p in zip(some.tolist(), true, predicted, strict=True)
            ]
            left_out += len(column.ids) - len(some)
            colour, errors = colours[column.task.id], (column.predicted - column.true)[some].tolist()
            parity.append(Marks(true, predicted, "points", colour, texts=texts))
            residuals.append(Marks(true, errors, "points", colour, texts=texts))
        against, error = f"true{unit}", f"predicted - true{unit}"
        figures.append(plot(f"{target}: predicted against true", against, f"predicted{unit}", parity, diagonal=True))
        figures.append(plot(f"{target}: residuals", against, error, residuals))
    text = "Structures of the test part, with the weights of the best epoch."
    if left_out:
        text += (
            f" {left_out} are not drawn: of those that are, {WORST:.0%} have the largest errors and the others are a"
            " random sample of the rest; hpc_kit export writes all."
        )
    return Section("Predictions", text, figures)


def _sample(errors: list[np.ndarray]) -> list[np.ndarray]:
    """Return which of each task's structures to draw: all, or MOST_POINTS in all."""
    sizes = [len(some) for some in errors]
    whole = np.abs(np.concatenate(errors))
    if len(whole) <= MOST_POINTS:
        return [np.arange(size) for size in sizes]
    order = np.argsort(-whole, kind="stable")
    worst = int(MOST_POINTS * WORST)
    others = np.random.default_rng(0).choice(order[worst:], MOST_POINTS - worst, replace=False)
    drawn = np.sort(np.concatenate([order[:worst], others]))
    ends = np.cumsum(sizes)
    starts = ends - sizes
    return [drawn[(drawn >= start) & (drawn < end)] - start for start, end in zip(starts, ends, strict=True)]


def _times(tasks: list[Task], epochs: dict[str, list[dict]], colours: dict[str, int]) -> Section:
    """Where each epoch's time went, a bar a task; throughput; memory in a table."""
    shown = [task for task in tasks if epochs[task.id]]
    medians = {task.id: _medians(epochs[task.id]) for task in shown}
    below, bars = [0.0] * len(shown), []
    for colour, part in enumerate((*PARTS, "rest")):
        tops = [low + medians[task.id][part] for low, task in zip(below, shown, strict=True)]
        name = part.removesuffix("_s").replace("_", " ")
        texts = [f"{task.label}: {name} {medians[task.id][part]:.3g} s" for task in shown]
        bars.append(Marks(range(len(shown)), tops, "bars", colour, name, texts, below))
        below = tops
    names = [task.label for task in shown] if len(shown) <= 8 else [str(n) for n in range(1, len(shown) + 1)]
    time = plot("median epoch of each task", "task", "seconds", bars, names=names)
    speed = [_curve(task, epochs[task.id], "graphs_per_s", colours) for task in shown]
    rows = []
    for task in shown:
        lines, median = epochs[task.id], medians[task.id]
        gpu = max((line["peak_gpu_mb"] or 0.0 for line in lines), default=0.0)
        rows.append(
            (
                task.label,
                f"{sum(median.values()):.3g} s",
                f"{median['data_wait_s'] / max(sum(median.values()), 1e-9):.1%}",
                f"{statistics.median(line['graphs_per_s'] for line in lines):.4g}",
                f"{max(line['peak_rss_mb'] for line in lines):.0f} MB",
                f"{gpu:.0f} MB" if gpu else "-",
            )
        )
    columns = ("task", "median epoch", "data wait", "graphs/s", "memory", "GPU memory")
    figures = [time, plot("graphs a second", "epoch", "graphs/s", speed, whole_x=True)]
    return Section(
        "Where the time went", "Medians leave the first epoch out where there are others.", figures, columns, rows
    )


def _medians(lines: list[dict]) -> dict[str, float]:
    steady = [line for line in lines[1:] or lines if line["wall_s"] is not None]
    if not steady:
        return dict.fromkeys((*PARTS, "rest"), 0.0)
    medians = {part: statistics.median(line[part] or 0.0 for line in steady) for part in PARTS}
    rest = [line["wall_s"] - sum(line[part] or 0.0 for part in PARTS) for line in steady]
    return medians | {"rest": max(statistics.median(rest), 0.0)}


def _splits(tasks: list[Task], done: dict[str, dict]) -> Section:
    rows: dict[tuple, None] = {}
    for task in tasks:
        if task.id in done:
            found, split = done[task.id], task.work.data.split
            sizes = [str(found["graphs"][part]) for part in ("train", "val", "test")]
            how = ", ".join(f"{key} {value}" for key, value in split.model_dump().items() if value is not None)
            rows[(how, *sizes, found["split_sha256"][:12], task.work.dataset_sha256[:12])] = None
    columns = ("split", "train", "val", "test", "sha256 of the split", "sha256 of the data")
    return Section("Data and split", "Who is in which part: splits/ in the run directory.", [], columns, list(rows))


def _colours(tasks: list[Task]) -> dict[str, int]:
    """Return a colour a setting; where there is one setting alone, a colour a seed."""
    settings = list(dict.fromkeys(task.setting for task in tasks))
    if len(settings) == 1:
        return {task.id: n % COLOURS for n, task in enumerate(tasks)}
    return {task.id: settings.index(task.setting) % COLOURS for task in tasks}


def _legend(tasks: list[Task], colours: dict[str, int]) -> list[tuple[int, str]]:
    settings = list(dict.fromkeys(task.setting for task in tasks))
    names = [(colours[task.id], task.label if len(settings) == 1 else task.setting) for task in tasks]
    return list(dict.fromkeys(names))[:COLOURS]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
