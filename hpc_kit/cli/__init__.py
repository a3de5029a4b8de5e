"""The commands, a file for each group. Each reads its arguments, calls one room, prints, and sets the exit code:
0 done, 1 the work failed, 2 the input is wrong, 75 preempted with the work so far kept, 130 interrupted."""

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

from hpc_kit import __version__
from hpc_kit.cli import bench, data, explain, images, predict, runs, search, sites, timings
from hpc_kit.spec.errors import PREEMPTED, InputError, Preempted, WorkError
from hpc_kit.spec.text import printable

app = typer.Typer(
    name="hpc_kit",
    help="Batch training of graph neural networks for molecules, crystals and MOFs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(runs.app)
app.add_typer(sites.app, name="sites", help="Show the sites there are, and check whether one can be used from here.")
bench.app.add_typer(timings.app)
app.add_typer(data.app, name="data", help="Prepare, look at and verify shard sets.")
app.add_typer(
    bench.app,
    name="bench",
    help="Hold measured runs against each other and against published ones.",
    epilog="Example: hpc_kit bench compare runs/june runs/july",
)
app.add_typer(images.app, name="image", help="Show, lock, build and verify container images.")
app.command(epilog="Example: hpc_kit predict runs/x molecules.extxyz --out energies.csv")(predict.predict)
app.command(epilog="Example: hpc_kit explain runs/x molecules.extxyz --out explained --trust")(explain.explain)
app.command(epilog="Example: hpc_kit search runs/search-x --best best.yaml")(search.search)
app.command(epilog="Example: hpc_kit doctor --json")(images.doctor)
NODE_PACKAGES = ("torch", "torch_geometric", "vesin", "ijson")


def _version(value: bool) -> None:
    if value:
        print(f"hpc_kit {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; turn the kinds of error into a message and an exit code."""
    try:
        app()
    except InputError as error:
        _end(str(error), 2)
    except WorkError as error:
        _end(str(error), 1)
    except Preempted as reason:
        _end(str(reason), PREEMPTED)
    except ModuleNotFoundError as error:
        if error.name not in NODE_PACKAGES:
            raise
        _end(f"{error.name} is not installed: on a node, pip install 'hpc-kit[node]'", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except OSError as error:
        from hpc_kit.files import is_of_disk

        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else "output: "
        _end(f"{where}{error.strerror or error}", 1 if is_of_disk(error) else 2)
    except SystemExit as end:
        _end("interrupted" if end.code == 130 else "", end.code)


def _end(message: str, code: int | str | None) -> NoReturn:
    """End with `message` and `code`. Where nobody reads what was printed any more, in silence."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more, and complains
        if error.errno != errno.EPIPE:
            message, code = message or f"output: {error.strerror}", code or 1
    if message:
        print(printable(message), file=sys.stderr)
    sys.exit(code)
