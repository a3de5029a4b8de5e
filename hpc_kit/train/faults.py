"""What goes wrong in a step, said so that the user knows which graphs it was and what to change."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.loader import Dataset
from hpc_kit.spec.errors import WorkError

SHOWN = 8
_NO_MEMORY = ("can't allocate memory", "not enough memory")  # what torch's CPU allocator says, in a RuntimeError


def first_bad_batch(
    epoch: int, start: int, losses: np.ndarray, batches: list[np.ndarray], data: Dataset
) -> WorkError:
    """Return the error for the first of `losses` (batches `start` and on) that is not finite, with its graphs."""
    bad = int(np.flatnonzero(~np.isfinite(losses))[0])
    ids = [name.decode() for name in data.ids[batches[start + bad]]]
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return WorkError(
        f"epoch {epoch}, batch {start + bad}: the loss is {losses[bad]}; its graphs: {', '.join(ids[:SHOWN])}{more}."
        " last.pt keeps what was before. Lower train.learning_rate, set train.clip, or look at those graphs"
    )


@contextlib.contextmanager
def out_of_memory(epoch: int, number: int, batch: GraphBatch) -> Iterator[None]:
    """Turn torch's error for memory that is not there into one that says how large the batch was."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(text in str(error) for text in _NO_MEMORY):
            raise
        graphs, atoms, edges = batch.graphs, len(batch.z), len(batch.src)
        first_line = str(error).strip().split("\n")[0]
        raise WorkError(
            f"epoch {epoch}, batch {number}: out of memory with {graphs} graphs, {atoms} atoms and {edges} edges"
            f" ({first_line}). Lower train.batch_size, or set train.batch_atoms below {atoms} or train.batch_edges"
            f" below {edges}; train.accumulate keeps the optimiser's step as large"
        ) from error
