"""Small wheels made for a test, and a place where pip finds them."""

from pathlib import Path

from hpc_kit.images.lock import empty_wheel


def wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """Write an empty wheel that requires something, and return its file."""
    empty_wheel(folder, name, version, list(requires))
    return folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
