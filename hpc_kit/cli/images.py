"""Commands about images, and doctor, which looks at the environment at hand."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.checks import Check
from hpc_kit.cli.options import JsonOption, console
from hpc_kit.spec.errors import InputError, WorkError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
ImageArgument = Annotated[str, typer.Argument(metavar="NAME", help="An image by name, or a recipe file.")]
WheelhouseOption = Annotated[
    Path | None, typer.Option(help="The folder for downloaded wheels [~/.cache/hpc_kit/wheelhouse].")
]


@app.command("list", epilog="Example: hpc_kit image list")
def image_list(as_json: JsonOption = False) -> None:
    """List the recipes that ship: device, MPI, versions, whether the lock holds, the file built."""
    from hpc_kit.report.images import describe, print_images
    from hpc_kit.spec.image import recipe_files

    found = [describe(recipe) for recipe in recipe_files().values()]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_images(found, console())


@app.command("show", epilog="Example: hpc_kit image show node-cpu")
def image_show(name: ImageArgument, as_json: JsonOption = False) -> None:
    """Show what goes into an image, in which order and why; of a SIF file, what it says of itself."""
    from hpc_kit.images.sif import read_image
    from hpc_kit.report.images import describe, print_recipe
    from hpc_kit.spec.image import find_recipe, load_image

    if name.endswith(".sif"):
        print(json.dumps(read_image(Path(name)).as_json(), indent=2))
        return
    recipe = find_recipe(name)
    if as_json:
        print(json.dumps(describe(recipe) | {"recipe": load_image(recipe).model_dump()}, indent=2))
    else:
        print_recipe(load_image(recipe), recipe)


@app.command("lock", epilog="Example: hpc_kit image lock node-cpu")
def image_lock(name: ImageArgument, wheelhouse: WheelhouseOption = None) -> None:
    """Find every package's exact version and hash, in install order, and write NAME.lock and NAME.def."""
    from hpc_kit.files import write_atomically
    from hpc_kit.images.definition import definition
    from hpc_kit.images.lock import UNVERIFIED, lock_file, resolve, write_lock
    from hpc_kit.spec.image import find_recipe, load_image

    recipe = find_recipe(name)
    lock = resolve(recipe, _wheelhouse(wheelhouse))
    write_lock(recipe, lock)
    write_atomically(recipe.with_suffix(".def"), definition(load_image(recipe)).encode())
    print(f"{lock_file(recipe)}: {len(lock.packages)} packages")
    if unknown := [package.pin for package in lock.packages if package.sha256 == UNVERIFIED]:
        print(f"unverified, for they cannot be reached from here: {', '.join(unknown)}")


@app.command("build", epilog="Example: hpc_kit image build node-cpu --base ~/bookworm")
def image_build(
    name: ImageArgument,
    out: Annotated[
        Path | None, typer.Option(help="The file to write [~/.local/share/hpc_kit/images/NAME.sif].")
    ] = None,
    wheelhouse: WheelhouseOption = None,
    base: Annotated[
        Path | None, typer.Option(help="A root file system to stand on, made if it is not there [from docker].")
    ] = None,
    accept_unverified: Annotated[
        bool, typer.Option("--accept-unverified", help="Take wheels whose hash nobody knows, and write it down.")
    ] = False,
    reproducible: Annotated[
        bool, typer.Option("--reproducible", help="The same bytes each time, as far as Apptainer gives that.")
    ] = False,
    no_test: Annotated[bool, typer.Option("--no-test", help="Do not run doctor in what was built.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Write a folder instead of a SIF file.")] = False,
) -> None:
    """Build an image from its lock: fetch its wheels once, then install them without a network."""
    from hpc_kit.images.build import Options, build
    from hpc_kit.spec.image import find_recipe, images_folder

    recipe = find_recipe(name)
    place = (out or images_folder() / f"{recipe.stem}.sif").absolute()
    how = Options(_wheelhouse(wheelhouse), base, accept_unverified, reproducible, not no_test, sandbox)
    made = build(recipe, place, how, lambda text: print(text, flush=True))
    print(
        f"{place}: " + ("a folder" if made is None else f"{place.stat().st_size / 1e6:.0f} MB, sha256 {made.sha256}")
    )


@app.command("verify", epilog="Example: hpc_kit image verify node-cpu")
def image_verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A SIF file, or the name of an image.")],
    gpu: Annotated[str | None, typer.Option(help="nv or rocm: show the machine's GPUs inside.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check an image's labels against its lock, and run doctor inside of it."""
    from hpc_kit.images.verify import verify
    from hpc_kit.spec.image import image_file

    if gpu not in (None, "nv", "rocm"):
        raise InputError(f"--gpu: must be nv or rocm (got {gpu!r})")
    _show(verify(image_file(file), gpu), as_json)


def doctor(
    folder: Annotated[Path, typer.Option(help="Where runs are written.")] = Path(),
    quick: Annotated[bool, typer.Option("--quick", help="Import nothing that computes.")] = False,
    mpiexec: Annotated[str | None, typer.Option(help="The launcher to try MPI with [the environment's].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this environment: versions, device, drivers, MPI, file systems; say what would go wrong."""
    from hpc_kit.images.doctor import diagnose

    if not folder.is_dir():
        raise InputError(f"--folder {folder}: no such folder")
    _show(diagnose(folder.absolute(), quick, mpiexec), as_json)


def _wheelhouse(folder: Path | None) -> Path:
    from hpc_kit.images.wheelhouse import CACHE
    from hpc_kit.spec.shipped import user_path

    return user_path(folder or CACHE)


def _show(found: list[Check], as_json: bool) -> None:
    from hpc_kit.report.checks import print_checks

    if as_json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        print_checks(found, console())
    if failed := [f"{check.name}: {check.seen}" for check in found if check.state == "fail"]:
        raise WorkError("\n".join([f"{len(failed)} of {len(found)} checks failed", *failed]))
