"""What each atom contributes to a model's prediction: CAM, Grad-CAM and gradient saliency, for a whole batch at once.

With F [N, K] the features of the last layer before atoms are pooled and y the prediction of an atom's graph:

    cam        sum_k F[n,k] dy/dF[n,k]: where the last layer is linear after a sum or a mean (`linear_head`) the class
               activation map of Zhou et al. 2016 (arXiv:1512.04150), elsewhere gradient times activation
    grad_cam   sum_k a_k F[n,k], a_k = (1/N) sum_n dy/dF[n,k] over the N atoms of the graph (Selvaraju et al. 2017,
               arXiv:1610.02391; on graphs Pope et al. 2019, doi 10.1109/CVPR.2019.01103, equations 6 and 7)
    saliency   the length of dy/dx[n], x the embedded element of the atom (Simonyan et al. 2014, arXiv:1312.6034)
    positions  the length of dy/dr[n], r the atom's position: of an energy it is the length of the force

Graphs of a batch do not see each other, so the gradient of the sum of all predictions is that of each. Not for:
whether a map means anything (trust.py).
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.layers import sum_by_graph
from hpc_kit.models.parts import GraphModel
from hpc_kit.train.scale import Scale

METHODS = ("cam", "grad_cam", "saliency", "positions")
SIGNED = ("cam", "grad_cam")  # in the target's unit, of both signs; their sum can be held against the prediction


@dataclass
class Attributed:
    """Maps of one model on one batch of N atoms and G graphs, float64, in the target's unit (positions: per Angstrom;
    saliency: per unit of feature).

    maps: method -> [N]. prediction [G]. baseline: what belongs to no atom's features, each [G]: `shifts` (the model's
    own biases and element shifts: its output where all features are zero), `atom_references`, `target_mean`.
    remainder: method -> [G], prediction - sum of the map - baseline; only of SIGNED methods without ReLU.
    """

    maps: dict[str, torch.Tensor]
    prediction: torch.Tensor
    baseline: dict[str, torch.Tensor]
    remainder: dict[str, torch.Tensor]


def attribute(
    model: GraphModel, scale: Scale, batch: GraphBatch, target: int, methods: Collection[str], relu: bool = False
) -> Attributed:
    """Return the maps of `methods` for the target with this number. relu: of SIGNED methods, only what is positive,
    as their papers have it.

    The model must be in evaluation mode. Raises InputError where it is a module of the user's own that does not offer
    its parts.
    """
    embed, head = model.parts(batch)
    moved, leaves = batch, {}
    start = contextlib.nullcontext()
    with torch.enable_grad():
        if "positions" in methods:
            leaves["positions"] = batch.pos.detach().requires_grad_()
            moved = replace(batch, pos=leaves["positions"])
        if "saliency" in methods:
            leaves["saliency"] = model.start(batch).detach().requires_grad_()
            start = _starting_from(model, leaves["saliency"])
        with start:
            features = embed(moved)
        if not features.requires_grad:
            features = features.detach().requires_grad_()
        output = head(features, moved)
        inner = [features, *leaves.values()]
        gradient, *outer = torch.autograd.grad(output[:, target].sum(), inner, materialize_grads=True)
    with torch.no_grad():
        graph, std = batch.graph_of_atom(), scale.std[target]
        features, gradient, maps = features.double(), gradient.double(), {}
        if "cam" in methods:
            maps["cam"] = std * (gradient * features).sum(1)
        if "grad_cam" in methods:
            mean = sum_by_graph(gradient, graph, batch.graphs) / batch.atom_ptr.diff().unsqueeze(1)
            maps["grad_cam"] = std * (mean.index_select(0, graph) * features).sum(1)
        for name, found in zip(leaves, outer, strict=True):
            maps[name] = std * found.double().norm(dim=1)
        prediction = scale.restore(output.detach(), batch)[:, target]
        baseline = _baseline(head, scale, batch, target, features.to(output.dtype))
        remainder = {}
        for name in maps.keys() & set(SIGNED):
            if relu:
                maps[name] = maps[name].clamp(min=0.0)
            else:
                total = sum_by_graph(maps[name].unsqueeze(1), graph, batch.graphs)[:, 0]
                remainder[name] = prediction - total - sum(baseline.values())
    return Attributed({name: maps[name] for name in methods}, prediction, baseline, remainder)


def _baseline(head, scale: Scale, batch: GraphBatch, target: int, features: torch.Tensor) -> dict[str, torch.Tensor]:
    nothing = torch.zeros_like(features)
    mean = scale.mean[target].expand(batch.graphs)
    references = mean.new_zeros(batch.graphs)
    if scale.per_atom:
        mean = mean * batch.atom_ptr.diff()
    if scale.references is not None and target == 0:
        references = references.index_add(0, batch.graph_of_atom(), scale.references.index_select(0, batch.z))
    shifts = scale.std[target] * head(nothing, batch)[:, target].double()
    return {"shifts": shifts, "atom_references": references, "target_mean": mean}


@contextlib.contextmanager
def _starting_from(model: GraphModel, features: torch.Tensor) -> Iterator[None]:
    """Let `model` begin with these features of the atoms, whatever their elements."""
    model.start = lambda batch: features
    try:
        yield
    finally:
        del model.start
