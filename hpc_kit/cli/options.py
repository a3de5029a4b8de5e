"""What several commands take, and the console they print to."""

from typing import Annotated

import typer

AccountOption = Annotated[str | None, typer.Option(help="What the site charges [the site file's].")]
PartitionOption = Annotated[str | None, typer.Option(help="A partition or queue of the site [the site file's].")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console(stderr: bool = False):
    """Return where tables are printed; rich is loaded when one is. Brackets and colons in paths and labels stay."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False)
