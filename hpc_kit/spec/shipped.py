"""Finds the files that ship with the package: job files, site files, the embedded data.

In a checkout `jobs/` and `site_configs/` stand beside the package, in an installed wheel inside it.
"""

from pathlib import Path

from hpc_kit.spec.errors import InputError, allowed

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(name: str) -> Path:
    """Return the folder `name` ("jobs", "site_configs", "embedded"), wherever this installation keeps it."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def find_shipped(folder: str, name: str) -> Path:
    """Return the YAML file that `name` means: a path that exists, or one of `folder`'s by name or file name.

    Raises InputError where there is neither, listing what ships.
    """
    path = Path(name)
    if path.is_file():
        return path
    files = {file.stem: file for file in sorted(shipped_folder(folder).glob("*.yaml"))}
    by_name = path.parent in (Path(), Path(folder)) and path.suffix in ("", ".yaml")
    if by_name and path.stem in files:
        return files[path.stem]
    raise InputError(f"{name}: no such file, and none of that name ships; {allowed(path.stem, files)}")
