"""Checks of a site, an image or an environment, as a person reads them."""

from rich.console import Console
from rich.table import Table

from hpc_kit.checks import Check


def print_checks(checks: list[Check], console: Console) -> None:
    """Print one line a check."""
    table = Table()
    for column in ("check", "", "seen", "what to do"):
        table.add_column(column, overflow="fold")
    for c in checks:
        table.add_row(c.name, c.state, c.seen, c.do)
    console.print(table)
