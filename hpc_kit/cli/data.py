"""Commands about shard sets: prepare, info, verify."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.cli.options import JsonOption, console
from hpc_kit.spec.errors import InputError, WorkError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
SetArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a shard set.")]


@app.command("prepare", epilog="Example: hpc_kit data prepare qm9 --out data/qm9 --cutoff 5")
def data_prepare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="qm9, md17, jarvis, hmof, core_mof, smiles or files.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    path: Annotated[Path | None, typer.Option(help="Where the data are [the installed package].")] = None,
    cutoff: Annotated[float, typer.Option(help="Angstrom: pairs closer than this are edges.")] = 5.0,
    max_neighbors: Annotated[int | None, typer.Option(help="Keep the nearest so many of each atom.")] = None,
    rule: Annotated[str, typer.Option(help="radius or alignn; docs/graphs.md states both.")] = "radius",
    atoms_only: Annotated[bool, typer.Option("--atoms-only", help="Store no edges.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first so many records.")] = None,
    shard_size: Annotated[int, typer.Option(help="Records a shard.")] = 2048,
    workers: Annotated[int | None, typer.Option(help="Processes [usable cores / ranks].")] = None,
    options: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the source; docs/sources.md.")
    ] = [],
) -> None:
    """Turn a source into a shard set; may be run under mpiexec or srun. Run again, it goes on where it ended."""
    from hpc_kit.data.command import prepare_from, summary
    from hpc_kit.ranks import find_ranks
    from hpc_kit.spec.data import Prepare
    from hpc_kit.spec.document import Document

    fields = {"source": source, "path": path and str(path), "out": str(out), "limit": limit, "shard_size": shard_size}
    graph = {"cutoff": cutoff, "max_neighbors": max_neighbors, "rule": rule}
    pairs = [text.partition("=")[::2] for text in options]
    if wrong := [text for text in options if "=" not in text]:
        raise InputError(f"--option {wrong[0]}: must be key=value; docs/sources.md lists each source's")
    keys = [key for key, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise InputError(f"--option {twice}: given twice")
    fields |= {"graph": None if atoms_only else graph, "options": dict(pairs)}
    if workers is not None and workers < 1:
        raise InputError(f"--workers: must be at least 1 (got {workers})")
    spec = Document("hpc_kit data prepare", fields, {}).check(Prepare)
    print(summary(out, prepare_from(spec, find_ranks(), workers)))


@app.command("info", epilog="Example: hpc_kit data info data/qm9 --json")
def data_info(folder: SetArgument, as_json: JsonOption = False) -> None:
    """Show what a shard set holds: counts, sizes, histograms, targets with mean and mean absolute deviation."""
    from hpc_kit.data.inspect import info
    from hpc_kit.report.tables import print_shard_set

    found = info(folder)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_shard_set(found, console())


@app.command("verify", epilog="Example: hpc_kit data verify data/qm9")
def data_verify(folder: SetArgument) -> None:
    """Read every byte of a shard set and compare it with its manifest."""
    from hpc_kit.data.inspect import verify

    problems = verify(folder)
    if problems:
        raise WorkError("\n".join(problems))
    print(f"{folder}: whole")
