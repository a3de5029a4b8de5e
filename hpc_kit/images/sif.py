"""What an image file says of itself, read without Apptainer: login nodes may have none.

The format is SIF's: a header, and descriptors of 585 bytes that say where each piece lies
(github.com/apptainer/sif, pkg/sif).
"""

import json
import os
import stat
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpc_kit.files import file_sha256, write_json
from hpc_kit.images.definition import LABEL
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import why_missing
from hpc_kit.spec.site import Site

_MAGIC = b"SIF_MAGIC\0"
_HEADER = struct.Struct("<32s10s3s3s16s8q")
_DESCRIPTOR = struct.Struct("<i?3I7q128s384s")
_JSON = 0x4006
_MAX_PIECES, _MAX_LABELS = 1024, 1 << 20
_METADATA = b"inspect-metadata.json"


@dataclass(frozen=True)
class ImageFile:
    """An image: its path, its sha256, and the labels that it was built with; null in one that is not of hpc_kit."""

    path: str
    sha256: str
    image: str | None
    device: str | None
    mpi: str | None
    architecture: str | None
    lock: str | None
    commit: str | None
    versions: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_image(path: Path) -> ImageFile:
    """Read an image's labels and hash. Raises InputError where it is none or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"image {path}: is no file; a job runs in a SIF file")
        labels = _labels(path)
        sha256 = image_sha256(path)
    except FileNotFoundError:
        raise InputError(why_missing(path)) from None
    except OSError as error:
        raise InputError(
            f"image {path}: cannot be read: {error.strerror}; 'hpc_kit image list' shows what is there"
        ) from None
    names = ("image", "device", "mpi", "architecture", "lock", "commit", "versions")
    return ImageFile(str(path), sha256, **{name: labels.get(f"{LABEL}.{name}") for name in names})


def misfits(image: ImageFile, site: Site, gpus: bool) -> list[str]:
    """Return why an image cannot be used on a site, for tasks with `gpus` or without."""
    found, name = [], image.image or image.path
    if site.mpi is not None and image.mpi is not None and image.mpi != site.mpi:
        other = "node-cuda-mpich" if site.mpi == "mpich" else "node-cuda"
        found.append(f"image {name} is made for {image.mpi} and site {site.name} needs {site.mpi}: take {other}")
    if image.architecture is not None and image.architecture != site.architecture:
        found.append(f"image {name} is for {image.architecture} and the nodes of {site.name} are {site.architecture}")
    if gpus and image.device == "cpu":
        found.append(f"image {name} has no CUDA and the job asks for GPUs: take node-cuda, or gpus_per_rank: 0")
    if gpus and image.device == "cuda" and site.container is not None and site.container.gpu == "rocm":
        found.append(f"image {name} is for NVIDIA GPUs and those of {site.name} are AMD's")
    return found


def image_sha256(path: Path) -> str:
    """Return the sha256 of an image, kept beside it in NAME.sif.json for as long as its size and time stay.

    That note is believed where the image's owner or this user wrote it.
    """
    found, note = path.stat(), path.with_name(f"{path.name}.json")
    state = {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
    try:
        known = json.loads(note.read_text())
        written_by = note.lstat().st_uid
        if {key: known.get(key) for key in state} == state and written_by in (found.st_uid, os.getuid()):
            return known["sha256"]
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    sha256 = file_sha256(path)
    try:
        write_json(note, state | {"sha256": sha256})
    except OSError:
        pass  # somebody else's folder: counted again next time
    return sha256


def _labels(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or (fields := _HEADER.unpack(head))[1] != _MAGIC:
            raise InputError(f"image {path}: is no SIF file")
        total, offset = fields[8], fields[9]
        try:
            for number in range(min(total, _MAX_PIECES)):
                file.seek(offset + number * _DESCRIPTOR.size)
                kind, used, *rest, name, _ = _DESCRIPTOR.unpack(file.read(_DESCRIPTOR.size))
                if used and kind == _JSON and name.rstrip(b"\0") == _METADATA and 0 <= rest[4] <= _MAX_LABELS:
                    file.seek(rest[3])
                    found = json.loads(file.read(rest[4]))
                    return found.get("data", {}).get("attributes", {}).get("labels") or {}
        except (struct.error, OSError, ValueError, AttributeError):
            raise InputError(f"image {path}: is damaged: its table of contents cannot be read") from None
    return {}
