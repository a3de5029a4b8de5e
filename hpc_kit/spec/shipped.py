"""Finds files that users name, and those that ship with the package: job files, site files, the embedded data.

In a checkout `jobs/` and `site_configs/` stand beside the package, in an installed wheel inside it.
"""

import errno
import os
import stat
from pathlib import Path

from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.text import cut

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
    try:
        mode, reason = os.stat(name).st_mode, ""
    except OSError as error:
        mode, reason = 0, "" if error.errno == errno.ENOENT else error.strerror
    if stat.S_ISREG(mode):
        return path
    files = {file.stem: file for file in sorted(shipped_folder(folder).glob("*.yaml"))}
    by_name = path.parent in (Path(), Path(folder)) and path.suffix in ("", ".yaml")
    if by_name and path.stem in files:
        return files[path.stem]
    if mode:
        reason = "is a folder, and a file is needed" if stat.S_ISDIR(mode) else "is no ordinary file"
    reason = reason or f"no such file, and none of that name ships; {allowed(path.stem, files)}"
    raise InputError(f"{cut(name) or repr(name)}: {reason}")


def user_path(text: str | Path) -> Path:
    """Return a path as users write it, whole: `~` filled in and links followed, whatever is or is not there."""
    return Path(os.path.realpath(os.path.expanduser(text)))
