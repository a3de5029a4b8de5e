"""Checkpoints: written whole or not at all, read without running anything that is stored in them.

A checkpoint is what torch.save writes, a zip archive. The archive's comment holds the sha256 of all bytes before it,
so that one wrong bit anywhere is seen; torch itself looks at no checksum. `torch.load` reads these files too.
"""

import hashlib
import io
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_kit.files import write_atomically
from hpc_kit.spec.errors import WorkError

_TAG = b"sha256:"
_COMMENT = len(_TAG) + 64
_REMEDY = "Remove last.pt and best.pt of its folder to train from the first epoch"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by `state`. Raises WorkError where the disk refuses it; the previous file survives."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(-2, io.SEEK_END)  # a zip archive ends in the length of its comment
    buffer.write(_COMMENT.to_bytes(2, "little"))
    with buffer.getbuffer() as body:
        digest = hashlib.sha256(body).hexdigest().encode()
    buffer.write(_TAG + digest)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        kept = "the previous one is kept" if path.exists() else "there is no earlier one"
        raise WorkError(
            f"{path}: checkpoint of {buffer.tell()} bytes not written: {error.strerror}; {kept}."
            " Free some space, then resume"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package onto the CPU. Raises WorkError where it is missing, damaged or none."""
    return parse_checkpoint(path, read_checkpoint(path))


def read_checkpoint(path: Path) -> bytes:
    """Return a checkpoint's bytes. Raises WorkError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise WorkError(f"{path}: cannot be read: {error.strerror}") from None


def parse_checkpoint(path: Path, content: bytes, remedy: str = _REMEDY) -> dict[str, Any]:
    """Return the state in `content`, the bytes of the checkpoint `path`. Raises WorkError, which ends in `remedy`,
    where they are damaged."""
    body, comment = content[:-_COMMENT], content[-_COMMENT:]
    if not comment.startswith(_TAG):
        raise WorkError(f"{path}: is no whole checkpoint of hpc_kit: its checksum is missing. {remedy}")
    if hashlib.sha256(body).hexdigest().encode() != comment[len(_TAG) :]:
        raise WorkError(f"{path}: is damaged: its bytes do not fit its checksum. {remedy}")
    return parse_foreign(path, content)


def parse_foreign(path: Path, content: bytes) -> Any:
    """Return what a file of any package holds, tensors and plain values only. Raises WorkError naming the file."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to run what is in the file
        raise WorkError(
            f"{path}: holds something other than tensors and plain values, or is no checkpoint; nothing in it was run"
        ) from None
    except Exception as error:  # torch raises many kinds here; each means the same to the user
        raise WorkError(
            f"{path}: is damaged or no checkpoint: torch cannot read it ({type(error).__name__})"
        ) from None


def random_state() -> dict[str, Any]:
    """Return the state of every random generator a training draws from."""
    algorithm, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [algorithm, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to where `random_state` found it."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
