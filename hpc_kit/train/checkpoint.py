"""Checkpoints: written whole or not at all, read without running anything that is stored in them."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_kit.files import write_atomically
from hpc_kit.spec.errors import WorkError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by `state`. Raises WorkError where the disk refuses it; the previous file survives."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        kept = "the previous one is kept" if path.exists() else "there is no earlier one"
        raise WorkError(
            f"{path}: checkpoint of {buffer.tell()} bytes not written: {error.strerror}; {kept}."
            " Free some space, then resume"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises WorkError where it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means the same to the user
        first_line = str(error).strip().split("\n")[0]
        raise WorkError(
            f"{path}: cannot be read ({first_line}); remove it to start this task from its first epoch"
        ) from error


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
