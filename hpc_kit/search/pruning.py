"""Which trials are ended early, from the scores of their epochs. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from hpc_kit.spec.document import Strict
from hpc_kit.spec.models import Positive


class Pruning(Strict):
    """A trial is judged after each epoch, never before it has `warmup` of them, by its best score so far.

    median: it ends where that is worse than the median of the other trials' best at the same epoch, once `least`
    others have come that far (median stopping, Golovin et al. 2017, doi 10.1145/3097983.3098043).

    halving: at `warmup`, `warmup` x `factor`, `warmup` x `factor`^2, ... epochs only the best one in `factor` of all
    trials that have come so far goes on (asynchronous successive halving, Li et al. 2020, arXiv:1810.05934).
    """

    rule: Literal["median", "halving"] = "median"
    warmup: Positive = 1
    least: Positive = 5
    factor: Annotated[int, Field(ge=2)] = 3


def why_to_prune(pruning: Pruning | None, curves: Mapping[int, Sequence[float]], number: int, epochs: int) -> str:
    """Return why trial `number` ends now, "" where it goes on.

    curves: trial number -> the score of each of its epochs, least is best. A trial that has all its `epochs` behind
    it is not pruned: it is done.
    """
    here = len(curves[number])
    if pruning is None or here < pruning.warmup or here >= epochs:
        return ""
    mine = min(curves[number])
    others = [min(curve[:here]) for other, curve in curves.items() if other != number and len(curve) >= here]
    if pruning.rule == "median":
        if len(others) < pruning.least or mine <= (middle := statistics.median(others)):
            return ""
        return f"median: {mine:.4g} after {here} epochs, worse than {middle:.4g}, the median of {len(others)} trials"
    if not _is_rung(here, pruning):
        return ""
    kept = (len(others) + 1) // pruning.factor
    better = sum(other < mine for other in others)
    if len(others) + 1 < pruning.factor or better < kept:
        return ""
    return f"halving: {better} of {len(others) + 1} trials were better after {here} epochs, and {kept} go on"


def _is_rung(epochs: int, pruning: Pruning) -> bool:
    rung = pruning.warmup
    while rung < epochs:
        rung *= pruning.factor
    return rung == epochs
