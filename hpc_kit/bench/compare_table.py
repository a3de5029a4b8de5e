"""Comparisons and checks of timings on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

WORDS = {True: "matters", False: "does not matter", None: "not known"}


def print_comparison(comparison: dict[str, Any], console: Console) -> None:
    """Print what compare_runs returned: of each run a table of its configurations, then why, then what differs."""
    base = comparison["base"]
    console.print(f"A: {base}; {comparison['measure']}, medians of runs' medians", soft_wrap=True, highlight=False)
    for run in comparison["runs"]:
        console.print(f"\nB: {run['run']}", soft_wrap=True, highlight=False)
        table = Table()
        table.add_column("configuration", overflow="fold", min_width=13)
        for name in ("A", "B", "B over A", "95 % interval", "least\nseen"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in run["configurations"]:
            table.add_row(one["label"] or "-", *_numbers(one))
        console.print(table)
        for one in run["configurations"]:
            verdict = f"{one['verdict']}; {one['difference']}"
            console.print(f"{one['label']}: {verdict}" if one["label"] else verdict, soft_wrap=True, highlight=False)
            for reason in one["reasons"]:
                _say(console, reason)
        for lone in run["unpaired"]:
            _say(console, f"{lone['label'] or 'the configuration'}: only in {lone['of']}")
        _print_fields(run["configurations"], console)


def print_check(checked: dict[str, Any], console: Console) -> None:
    """Print what baseline.check returned."""
    table = Table("configuration", "outcome")
    for name in ("baseline", "now", "ratio", "at least", "at most"):
        table.add_column(name, justify="right")
    for one in checked["configurations"]:
        medians = [f"{value:.4g} s" for value in one["medians"]]
        ends = [f"{one[key]:.3f}" for key in ("ratio", "low", "high")]
        table.add_row(one["label"] or "-", one["outcome"], *medians, *ends)
    console.print(table)
    _say(
        console,
        f"limit {checked['limit']:g}; a run that is no slower than that fails in {checked['alarms']:.0%} of checks"
        " at most",
    )
    for one in checked["configurations"]:
        if one["outcome"] == "undecided":
            label = f"{one['label']}: " if one["label"] else ""
            _say(
                console,
                f"{label}the limit lies in the interval; slower by {one['detectable'] - 1:.0%} over it would"
                " be found in 80 of 100 checks",
            )
    _print_fields(checked["configurations"], console)


def _numbers(one: dict[str, Any]) -> list[str]:
    medians = ["-" if value is None else f"{value:.4g} s" for value in one["medians"]]
    effect = one["normalised"] or one["effect"]
    if effect is None:
        return [*medians, "-", "-", "-"]
    if effect["low"] is None:
        interval = "no interval"
    else:
        within = "" if effect["detectable"] else "\nwithin one run"
        interval = f"{effect['low']:.3f} to {effect['high']:.3f}{within}"
    least = "-" if effect["detectable"] is None else f"{effect['detectable']:.3f}"
    over = "\nnormalised" if one["normalised"] else ""
    return [*medians, f"{effect['ratio']:.3f}{over}", interval, least]


def _print_fields(configurations: list[dict[str, Any]], console: Console) -> None:
    """Print the fields that differ, each once, with the first configuration's values."""
    fields = {field["field"]: field for one in reversed(configurations) for field in one["fields"]}
    if not fields:
        return
    table = Table("differs", "A", "B", "here", "effect")
    for name in sorted(fields, key=lambda name: ((True, None, False).index(fields[name]["matters"]), name)):
        field = fields[name]
        table.add_row(name, _short(field["a"]), _short(field["b"]), WORDS[field["matters"]], field["effect"])
    console.print(table)


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:29]}…"


def _say(console: Console, text: str) -> None:
    console.print(f"  {text}", soft_wrap=True, highlight=False)
