"""What goes wrong in a step, said so that the user knows which graphs it was and what to change."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.loader import Dataset
from hpc_kit.data.sampling import Limits
from hpc_kit.spec.errors import NotFinite, OutOfMemory
from hpc_kit.train.distributed import Group
from hpc_kit.train.evaluate import Predictions
from hpc_kit.train.objective import Objective

SHOWN = 8
_NO_MEMORY = ("can't allocate memory", "not enough memory")  # what torch's CPU allocator says, in a RuntimeError


def not_finite(
    what: str, where: str, members: np.ndarray, objective: Objective, model: nn.Module, data: Dataset, group: Group
) -> NotFinite:
    """Return the error for a loss or gradient of the graphs `members` that is not finite, naming those it is due to.

    Every rank comes here; each graph is tried alone, with the weights as they are.
    """
    guilty = _find_guilty(members, objective, model, data, group)
    if 0 < len(guilty) < len(members):
        why = f"; of its {len(members)} graphs it is due to {_names(guilty, data)}"
        remedy = "Look at the structure and the targets of those (atoms on top of each other, for example)"
    else:
        why = f"; its graphs: {_names(members, data)}"
        remedy = "Lower train.learning_rate, set train.clip, or look at those graphs"
    return NotFinite(f"{where}: {what}{why}. last.pt, where there is one, keeps what was before. {remedy}")


def check_predictions(found: Predictions, data: Dataset, part: str) -> None:
    """Raise NotFinite naming the graphs of a part of the data for which the model predicts no finite numbers."""
    bad = ~np.isfinite(found.values).all(axis=1)
    if found.forces is not None:
        atoms = np.flatnonzero(~np.isfinite(found.forces).all(axis=1))
        bad[np.searchsorted(found.atom_ptr, atoms, side="right") - 1] = True
    if bad.any():
        raise NotFinite(
            f"the model predicts no finite number for {bad.sum()} of {len(bad)} graphs of the {part} part:"
            f" {_names(found.index[bad], data)}. last.pt, where there is one, keeps what was before."
            " Lower train.learning_rate, set train.clip, or look at those graphs"
        )


def _find_guilty(
    members: np.ndarray, objective: Objective, model: nn.Module, data: Dataset, group: Group
) -> np.ndarray:
    """Return the graphs whose own loss or gradient is not finite; each rank tries its share."""
    objective.model = model  # not its compiled form, which would be compiled anew
    objective.eval()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    bad = []
    for numbers, batch in data.in_order(members, Limits(1), group.rank, group.size):
        batch = batch.to(group.device)
        with contextlib.suppress(RuntimeError):  # the first error is what counts
            loss = objective(batch, 1, len(batch.z))
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            if not all(bool(value.isfinite().all()) for value in (loss, *gradients) if value is not None):
                bad += numbers.tolist()
    return np.concatenate(group.gather(np.array(bad, dtype=np.int64)))


def _names(members: np.ndarray, data: Dataset) -> str:
    names = [name.decode() for name in data.ids[members[:SHOWN]]]
    more = f" and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
    return f"{', '.join(names)}{more}"


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
        raise OutOfMemory(
            f"epoch {epoch}, batch {number}: out of memory with {graphs} graphs, {atoms} atoms and {edges} edges"
            f" ({first_line}). Lower train.batch_size, or set train.batch_atoms below {atoms} or train.batch_edges"
            f" below {edges}; train.accumulate keeps the optimiser's step as large"
        ) from error
