"""The values of a source's options, and the files that installed packages carry. Each wrong one is an InputError."""

import importlib.metadata
import math
from pathlib import Path
from typing import Literal

from hpc_kit.spec.errors import InputError, allowed


def choice(options: dict[str, str], name: str, choices: list[str], default: str) -> str:
    """Return option `name`, which must be one of `choices`."""
    value = options.get(name, default)
    if value not in choices:
        raise InputError(f"option {name}={value}: {allowed(value, choices)}")
    return value


def yes(options: dict[str, str], name: str) -> bool:
    """Return whether option `name` is `true`; `false` where it is not given."""
    return choice(options, name, ["true", "false"], "false") == "true"


def positive(options: dict[str, str], name: str) -> float | None:
    """Return the number above 0 that option `name` gives; None where it is not given."""
    if name not in options:
        return None
    try:
        value = float(options[name])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"option {name}={options[name]}: must be a number above 0")
    return value


def names(options: dict[str, str], name: str) -> list[str]:
    """Return the comma-separated names of an option; [] where it is not given."""
    if name not in options:
        return []
    values = [value.strip() for value in options[name].split(",")]
    if "" in values or len(set(values)) < len(values):
        raise InputError(f"option {name}={options[name]}: write distinct names with a comma between them")
    return values


def file(options: dict[str, str], name: str, folder: Path | None = None) -> Path | None:
    """Return the file that option `name` names, as given or inside `folder`; None where it is not given."""
    if name not in options:
        return None
    places = [Path(options[name])] + ([folder / options[name]] if folder else [])
    for place in places:
        if place.is_file():
            return place
    looked_for = " and ".join(dict.fromkeys(map(str, places)))
    if any(place.exists() for place in places):
        raise InputError(f"option {name}={options[name]}: must name an ordinary file, and found none ({looked_for})")
    raise InputError(f"option {name}={options[name]}: no such file, looked for {looked_for}")


def existing(path: Path | None, source: str, what: str, kind: Literal["file", "folder", "any"] = "any") -> Path:
    """Return `path`, which must be given, exist, and be of `kind`; `what` says what the source wants there."""
    if path is None:
        raise InputError(f"source {source!r} needs a path: {what}")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; source {source!r} wants {what}")
    if not path.is_dir() and not path.is_file():  # a pipe or a device, which reading may never come to the end of
        raise InputError(f"{path}: is no ordinary file; source {source!r} wants {what}")
    found = "folder" if path.is_dir() else "file"
    if kind not in ("any", found):
        raise InputError(f"{path}: is a {found}; source {source!r} wants {what}")
    return path


def installed(package: str, path: str) -> tuple[Path, str]:
    """Return where an installed package keeps `path`, and "package version". The package is not imported."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"package {package} is not installed: pip install --no-deps {package}, or name the data by its path"
        ) from None
    place = Path(str(found.locate_file(path)))
    if not place.exists():
        raise InputError(f"package {package} {found.version} holds no {path}: install it again")
    return place, f"{package} {found.version}"
