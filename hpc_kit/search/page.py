"""What searches add to the page of a run: history, importance of hyperparameters, parallel coordinates, slices,
failures, the Pareto set, strategies compared. The login side."""

from collections.abc import Iterator
from typing import Any

from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.search import drawings
from hpc_kit.search.compare import Group, against_time, against_trials, comparison, groups
from hpc_kit.search.importance import LEAST, importances
from hpc_kit.search.records import Trial
from hpc_kit.search.results import Search, flat, front
from hpc_kit.search.summary import compared_rows, counted, searches_of
from hpc_kit.spec.errors import InputError
from hpc_kit.svg import Section
from hpc_kit.text import in_unit

TOP = 10


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections of a run of searches; those of different data or targets have each their own."""
    found = groups(searches_of(run, plan.tasks))
    for group in found:
        title = f": {group.label}" if len(found) > 1 else ""
        if not any(search.trials for search in group.searches):
            continue
        yield _searches(group, title)
        yield _history(group, title)
        if len(group.sides) > 1 and group.budget:
            yield _strategies(group, title)
        rows = _rows(group)
        if rows:
            log_keys = group.searches[0].log_keys
            yield _importance(rows, log_keys, title)
            yield _values(rows, log_keys, f"error / {group.unit}", title)
        if (section := _pareto(group, title)) is not None:
            yield section
        if (section := _failures(group, title)) is not None:
            yield section


def _searches(group: Group, title: str) -> Section:
    """What each search came to, and how busy its workers were."""
    rows = []
    for search in group.searches:
        best = in_unit(search.best.error, group.unit) if search.best else "-"
        idle = "-" if search.idle is None else f"{search.idle:.1%}"
        optimizer = "-" if search.optimizer_s is None else f"{search.optimizer_s:.3f} s"
        work = (f"{search.wall_s:.0f} s", str(search.workers), idle, optimizer)
        rows.append((search.label, counted(search.states), best, *work))
    columns = ("search", "trials", "best", "worked", "workers", "idle", "optimizer a trial")
    text = (
        "Idle: the share of the workers' time in which they waited for a trial while there were some to begin."
        " Optimizer: its processor time for each trial."
    )
    return Section(f"Searches{title}", text, columns=columns, rows=rows)


def _history(group: Group, title: str) -> Section:
    """Each trial's error by number, and the best ones in a table."""
    series = [
        (side, [(t.number, t.error, _text(search, t)) for t in sorted(search.done, key=lambda t: t.number)])
        for side, searches in group.sides.items()
        for search in searches
        if search.done
    ]
    figures = [drawings.history(series, f"error / {group.unit}")] if series else []
    best = sorted(((t.error, s, t) for s in group.searches for t in s.done), key=lambda item: item[0])[:TOP]
    rows = [[in_unit(e, group.unit), s.label, str(t.number), t.by, _values_text(t)] for e, s, t in best]
    columns = ("error", "search", "trial", "asked by", "values")
    return Section(f"Trials{title}", f"The best {len(rows)} in the table.", figures, columns, rows)


def _strategies(group: Group, title: str) -> Section:
    """Table 4 and figure 1 of the framework's paper, and the best so far with bands."""
    found, axis = comparison(group), f"error / {group.unit}"
    errors = {name: [e for s in several for e in s.errors(group.budget)] for name, several in group.sides.items()}
    figures = [drawings.distributions({name: some for name, some in errors.items() if some}, axis)]
    each = "best so far, median and middle half of the searches"
    figures.append(drawings.best_so_far(f"{each}, by trials", "trials that ended", axis, against_trials(group)))
    by_time = against_time(group, drawings.TIMES)
    figures.append(drawings.best_so_far(f"{each}, by time", "seconds of search", axis, by_time))
    text = " ".join(test["sentence"] for test in found["tests"])
    text += f" The first {group.budget} trials of each search count, as many as have ended in all of them."
    if found["published"]:
        text += (
            " Published: table 4 of the framework's paper, 20 PhysNet models a method trained for 30 epochs on QM9;"
            " its losses have no unit and are not our errors: compare strategies within a column only."
        )
    columns, rows = compared_rows(found)
    return Section(f"Strategies{title}", text, figures, columns, rows)


def _importance(rows: list[tuple[dict[str, Any], float, str]], log_keys: list[str], title: str) -> Section:
    name = f"Importance of hyperparameters{title}"
    try:
        found = importances([(values, error) for values, error, _ in rows], log_keys)
    except InputError as error:
        return Section(name, f"Not computed: {error}.")
    if found is None:
        return Section(name, f"Not computed: needs {LEAST} trials that are done at least, and a value that varies.")
    names = [one.key for one in found.keys]
    middle, low, high = ([getattr(one, part) for one in found.keys] for part in ("share", "low", "high"))
    told = [one.told for one in found.keys]
    figure = drawings.shares(names, middle, low, high, told)
    table = [
        [one.key, f"{one.share:.1%}", f"{one.low:.1%} to {one.high:.1%}", "yes" if one.told else "no"]
        for one in found.keys
    ]
    columns = ("hyperparameter", "share", "10th to 90th percentile", "more than a random number")
    return Section(name, " ".join(found.notes()), [figure], columns, table)


def _values(rows: list[tuple[dict[str, Any], float, str]], log_keys: list[str], axis: str, title: str) -> Section:
    """Parallel coordinates and slices."""
    lines = drawings.parallel(rows, log_keys, "error")
    figures = [*([lines] if lines else []), *drawings.slices(rows, log_keys, axis)]
    return Section(f"Errors by value{title}", "A line or point a trial that was done.", figures)


def _pareto(group: Group, title: str) -> Section | None:
    """Error against epoch time, where both are objectives."""
    if not any(search.pareto for search in group.searches):
        return None
    where = {id(t): s for s in group.searches for t in s.done}
    trials = [t for s in group.searches for t in s.done if t.objectives["epoch_s"] is not None]
    best = front(trials)
    points = [(t.objectives["epoch_s"], t.error, _text(where[id(t)], t)) for t in trials]
    places = [next(n for n, t in enumerate(trials) if t is one) for one in best]
    figure = drawings.pareto(points, places, "seconds an epoch", f"error / {group.unit}")
    rows = [
        [in_unit(t.error, group.unit), f"{t.objectives['epoch_s']:.3g} s", where[id(t)].label, str(t.number)]
        + [_values_text(t)]
        for t in best
    ]
    text = "The trials that no other beats in error and epoch time both."
    columns = ("error", "epoch", "search", "trial", "values")
    return Section(f"Pareto set{title}", text, [figure], columns, rows)


def _failures(group: Group, title: str) -> Section | None:
    rows = [
        [search.label, reason, str(len(trials)), ", ".join(str(t.number) for t in trials[:TOP])]
        + [trials[0].reason, _values_text(trials[0])]
        for search in group.searches
        for reason, trials in search.failures.items()
    ]
    if not rows:
        return None
    text = "Failures count as trials of the budget; the optimiser is told of them as failures."
    columns = ("search", "reason", "trials", "numbers", "the first in full", "its values")
    return Section(f"Failed trials{title}", text, columns=columns, rows=rows)


def _rows(group: Group) -> list[tuple[dict[str, Any], float, str]]:
    """Return values, error and text of each trial that was done."""
    return [(flat(t.values), t.error, _text(s, t)) for s in group.searches for t in s.done]


def _text(search: Search, trial: Trial) -> str:
    return f"trial {trial.number} ({search.label}): {in_unit(trial.error, search.unit)}; {_values_text(trial)}"


def _values_text(trial: Trial) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in flat(trial.values).items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
