"""What came of a run of kind "dynamics", for a terminal and as JSON. The login side."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.plan import Task
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import Record
from hpc_kit.runs.status import TaskStatus

Row = dict[str, Any]


class Metrics(Record):
    """metrics.json, as far as it is read here."""

    timestep_fs: float
    steps: int
    every: int
    temperature_K: float
    seed: int
    told: list[str]
    molecules: list[Row]
    fields: list[Row]
    training: Row | None
    reference: str | None
    reference_groups: dict[str, dict[str, Any]]
    transfer: list[Row]


def summarize(
    run: RunDir, tasks: list[Task], states: dict[str, TaskStatus], spent: dict[str, float]
) -> dict[str, Any]:
    """Return what each task that came to its end has measured, without curves and histograms."""
    found = []
    for task in tasks:
        if states[task.id].state != "done":
            continue
        metrics = run.task(task.id).read_metrics(Metrics)
        fields = [
            {**field, "molecules": [_without(one, "curve", "groups", "last") for one in field["molecules"]]}
            for field in metrics["fields"]
        ]
        kept = _without(metrics, "molecules", "reference_groups")
        found.append({"id": task.id, "label": task.label, **kept, "fields": fields})
    return {"dynamics": found}


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print a table of the runs, one of the transfer where there is a reference, and what a user should know."""
    for made in summary["dynamics"]:
        ps = made["steps"] * made["timestep_fs"] / 1000
        title = f"{made['label']}: {made['steps']} steps of {made['timestep_fs']:g} fs ({ps:g} ps)"
        _print(console, title, MOVED, moved(made))
        for text in speeds(made):
            console.print(text, soft_wrap=True, highlight=False, markup=False)
        if made["transfer"]:
            _print(console, "held against the reference", JUDGED, judged(made))
            console.print(JUDGEMENTS, soft_wrap=True, highlight=False)
        for text in [MEANINGS, *ends(made), *made["told"]]:
            console.print(text, soft_wrap=True, highlight=False, markup=False)


def _print(console: Console, title: str, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    console.print(title, soft_wrap=True, highlight=False, markup=False)
    table = Table()
    for name in columns:
        table.add_column(name.replace(", ", "\n").replace("/", "/\n"), no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


MOVED = ("forces", "molecule", "ended", "drift", "T, K", "new r", "new f")
MEANINGS = (
    "ended: replicas that ended early, of all. drift: of the total energy, meV/atom/ps, with its 95 % interval. new"
    " r: distances that the training never saw. new f: features of the model's last layer outside of the training's."
)


def moved(made: Row) -> list[list[str]]:
    """Return a row a force field and molecule: how it went."""
    rows = []
    for field in made["fields"]:
        for one in field["molecules"]:
            heat = one["temperature"]
            share = f"{one['outside'] / one['distances']:.2%}" if one["distances"] else "-"
            rows.append(
                [
                    field["name"],
                    one["name"],
                    f"{len(one['ended'])} of {replicas(one)}",
                    drift_text(one["drift"]),
                    f"{heat['mean']:.0f}" if heat else "-",
                    share,
                    number(one["features_outside"], ".2%"),
                ]
            )
    return rows


def replicas(one: Row) -> int:
    """Return how many replicas of a molecule there were, those that ended in equilibration among them."""
    return one["replicas"] + sum(end["phase"] == "equilibration" for end in one["ended"])


def speeds(made: Row) -> Iterator[str]:
    """Yield how fast each force field moved all its replicas, where any came beyond equilibration."""
    for field in made["fields"]:
        if field["steps_per_s"] is not None:
            ns = f"{field['ns_per_day']:.3g} ns/day of each replica"
            yield f"{field['name']}: {field['steps_per_s']:.1f} steps/s, {ns}"


JUDGED = ("forces", "molecule", "E, meV/atom", "F, meV/Å", "end, ps", "h(r)", "bonds, Å", "angles, °")
JUDGEMENTS = (
    "E, F: mean absolute errors on reference frames, of energies up to a constant. end: of the first replica, 0 in"
    " equilibration. h(r): error of all distances. bonds, angles: mean Wasserstein distance to the reference."
)


def judged(made: Row) -> list[list[str]]:
    """Return a row a force field and molecule: how far it is from the reference."""
    rows = []
    for one in made["transfer"]:
        errors = one["errors"] or {}
        rows.append(
            [
                one["field"],
                one["molecule"],
                number(errors.get("energy_mae"), ".3g"),
                number(errors.get("force_mae"), ".3g"),
                "none" if one["first_end_ps"] is None else f"{one['first_end_ps']:.3g}",
                number(one["h_error"], ".3f"),
                number(_mean(one, "Angstrom"), ".4f"),
                number(_mean(one, "degree"), ".2f"),
            ]
        )
    return rows


def ends(made: Row) -> Iterator[str]:
    """Yield a line for each replica that ended early: when and why."""
    for field in made["fields"]:
        for one in field["molecules"]:
            for end in one["ended"]:
                when = f"{end['time_fs']:g} fs of {end['phase']}"
                yield f"{field['name']}: {one['name']} replica {end['replica']} ended at {when}: {end['reason']}"


def drift_text(drift: Row | None) -> str:
    """Return a drift and how far its interval reaches to either side."""
    if drift is None:
        return "-"
    low, high = drift["interval"]
    return f"{drift['value']:.2g} ± {(high - low) / 2:.1g}"


def number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _mean(one: Row, unit: str) -> float | None:
    """Return the mean Wasserstein distance of a molecule's groups in `unit`, divided by elements alone."""
    values = [g["wasserstein"] for name, g in one["groups"].items() if g["unit"] == unit and " " not in name]
    return sum(values) / len(values) if values else None
