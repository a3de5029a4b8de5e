"""Recipes and image files, as a person reads them."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hpc_kit.images.lock import UNVERIFIED, load_lock
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import STAGES, Image, images_folder, load_image


def describe(recipe: Path) -> dict[str, Any]:
    """Return what a recipe is for, whether its lock holds, and the file built from it, if there is one."""
    image, built = load_image(recipe), images_folder() / f"{recipe.stem}.sif"
    try:
        lock, state = load_lock(recipe), "locked"
        if unknown := sum(package.sha256 == UNVERIFIED for package in lock.packages):
            state = f"locked, {unknown} unverified"
        versions = lock.versions
    except InputError as error:
        state, versions = str(error), {}
    return {
        "name": image.name,
        "description": image.description,
        "device": f"CUDA {image.cuda}" if image.cuda else "CPU",
        "mpi": image.mpi,
        "torch": versions.get("torch"),
        "dgl": versions.get("dgl"),
        "packages": len(versions),
        "lock": state,
        "file": str(built) if built.is_file() else None,
        "megabytes": round(built.stat().st_size / 1e6) if built.is_file() else None,
    }


def print_images(found: list[dict[str, Any]], console: Console) -> None:
    """Print a line an image."""
    table = Table()
    for column in ("image", "device", "MPI", "torch", "dgl", "lock", "built"):
        table.add_column(column, overflow="fold")
    for one in found:
        built = f"{one['file']}, {one['megabytes']} MB" if one["file"] else "-"
        row = (one["device"], one["mpi"], one["torch"] or "-", one["dgl"] or "-", one["lock"], built)
        table.add_row(one["name"], *row)
    console.print(table)


def print_recipe(image: Image, recipe: Path) -> None:
    """Print what goes into an image, stage by stage, each with the reason for its place."""
    cuda = f"CUDA {image.cuda}, driver {image.driver} or newer" if image.cuda else "no CUDA"
    print(f"{image.name}: {image.description}\n{cuda}; {image.mpi}; Python {image.python}; on {image.base.docker}")
    try:
        packages = load_lock(recipe).packages
    except InputError as error:
        print(error)
        packages = []
    for stage, asked in image.stages.items():
        print(f"\n{stage}: {STAGES[stage]}")
        locked = [package for package in packages if package.stage == stage]
        for package in locked:
            mark = "  unverified" if package.sha256 == UNVERIFIED else ""
            print(f"  {package.pin}{f'  {package.url}' if package.url else ''}{mark}")
        for text in asked if not locked else []:
            print(f"  {text}")
