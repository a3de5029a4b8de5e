"""Whether maps of atoms can be trusted: fidelity against random atoms, agreement of models, random weights.

A map that passes says where the model looks, not why nature is so. Not for: making maps (attribution.py).
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.parts import GraphModel

# model, batch -> method -> [N]
Maps = Callable[[GraphModel, GraphBatch], dict[str, torch.Tensor]]
WAYS = ("zero", "remove")
SURVIVES = 0.5  # a mean Spearman above it with all weights random: the map shows the structure, not the model


def fidelity(
    model: GraphModel,
    batch: GraphBatch,
    target: int,
    maps: dict[str, torch.Tensor],
    sparsity: float,
    draws: int,
    generator: torch.Generator,
) -> dict[str, dict[str, np.ndarray]]:
    """Return way -> name -> [G] in units of the model's output, NaN for graphs of one atom.

    Of each graph the k = (1 - sparsity) N atoms with the largest absolute value of a map (1 at least, N - 1 at most)
    are its top. plus <method> is |y(G) - y(G without top)|, which should be large, minus <method> is |y(G) - y(top)|,
    which should be small; plus and minus random are the same for k random atoms, the mean of `draws`. Way `zero` sets
    the last features of atoms to zero; `remove` takes the atoms out of the graph with their edges, which the model
    has never seen in training. y is without mean and atom references.
    """
    embed, head = model.parts(batch)
    count = batch.atom_ptr.diff()
    top_size = torch.ceil((1.0 - sparsity) * count).long().clamp(min=1).minimum(count - 1)
    found: dict[str, dict[str, torch.Tensor]] = {way: {} for way in WAYS}
    with torch.no_grad():
        features = embed(batch)
        whole = head(features, batch)[:, target]

        def change(way: str, keep: torch.Tensor) -> torch.Tensor:
            if way == "zero":
                return (whole - head(features * keep.unsqueeze(1), batch)[:, target]).abs()
            return (whole - model(kept(batch, keep))[:, target]).abs()

        random = [torch.rand(len(batch.z), generator=generator).to(whole.device) for _ in range(draws)]
        for way in WAYS:
            for name, values in maps.items():
                top = largest(values.abs(), batch, top_size)
                found[way][f"plus {name}"], found[way][f"minus {name}"] = change(way, ~top), change(way, top)
            tops = [largest(values, batch, top_size) for values in random]
            found[way]["plus random"] = torch.stack([change(way, ~top) for top in tops]).mean(0)
            found[way]["minus random"] = torch.stack([change(way, top) for top in tops]).mean(0)
    single = (count < 2).cpu().numpy()
    numbers = {way: {k: v.double().cpu().numpy() for k, v in each.items()} for way, each in found.items()}
    for each in numbers.values():
        for values in each.values():
            values[single] = np.nan
    return numbers


def largest(values: torch.Tensor, batch: GraphBatch, counts: torch.Tensor) -> torch.Tensor:
    """Return [N] bool: the `counts` [G] atoms of each graph with the largest `values` [N]."""
    graph = batch.graph_of_atom()
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(graph[order], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - batch.atom_ptr[:-1].index_select(0, graph)
    return rank < counts.index_select(0, graph)


def kept(batch: GraphBatch, keep: torch.Tensor) -> GraphBatch:
    """Return the batch with the atoms `keep` [N] bool only, and the edges among them; every graph keeps one."""
    new = keep.long().cumsum(0) - 1
    edges = keep[batch.src] & keep[batch.dst]
    ends = torch.cat([new.new_zeros(1), new + 1])
    edge_ends = torch.cat([new.new_zeros(1), edges.long().cumsum(0)])
    return replace(
        batch,
        z=batch.z[keep],
        pos=batch.pos[keep],
        src=new[batch.src[edges]],
        dst=new[batch.dst[edges]],
        shift=None if batch.shift is None else batch.shift[edges],
        atom_ptr=ends.index_select(0, batch.atom_ptr),
        edge_ptr=edge_ends.index_select(0, batch.edge_ptr),
        forces=None,
    )


def told_fidelity(parts: Sequence[dict[str, dict[str, np.ndarray]]], method: str, factor: float) -> dict[str, Any]:
    """Return of what `fidelity` gave for several batches the means for one method, times `factor` (the unit): for
    each way plus, minus, their random counterparts, the mean paired differences with their 95 % intervals (Student's
    t), and whether these are clear of zero on the right side."""
    told: dict[str, Any] = {}
    for way in WAYS:
        told[way] = {}
        for sign, better in (("plus", 1.0), ("minus", -1.0)):
            ours, random = (
                factor * np.concatenate([part[way][f"{sign} {name}"] for part in parts])
                for name in (method, "random")
            )
            difference = (ours - random)[np.isfinite(ours)]
            if not len(difference):
                told[way][sign] = None
                continue
            mean = float(difference.mean())
            freedom = len(difference) - 1
            wide = student.ppf(0.975, freedom) if freedom else 0.0
            half = float(wide * difference.std(ddof=1) / len(difference) ** 0.5) if freedom else None
            told[way][sign] = {
                "value": float(np.nanmean(ours)),
                "random": float(np.nanmean(random)),
                "difference": mean,
                "interval": None if half is None else [mean - half, mean + half],
                "better": half is not None and better * mean > half,
                "structures": len(difference),
            }
    return told


def spearman(a: np.ndarray, b: np.ndarray, atom_ptr: np.ndarray) -> np.ndarray:
    """a, b [A] -> [n]: the rank correlation within each structure; NaN where one of them is constant."""
    counts = np.diff(atom_ptr)
    graph = np.repeat(np.arange(len(counts)), counts)
    one, other = (_centred_ranks(values, graph, counts) for values in (a, b))
    product, first, second = (np.bincount(graph, v, len(counts)) for v in (one * other, one * one, other * other))
    size = np.sqrt(first * second)
    return np.divide(product, size, out=np.full(len(counts), np.nan), where=size > 0.0)


def _centred_ranks(values: np.ndarray, graph: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return [A] the rank of each value within its structure, less their mean; equal values share their mean rank."""
    order = np.lexsort((values, graph))
    ordered = values[order]
    new = np.ones(len(values), bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (graph[order][1:] != graph[order][:-1])
    tie = np.cumsum(new) - 1
    place = np.arange(len(values), dtype=np.float64)
    ranks = np.empty(len(values))
    ranks[order] = (np.bincount(tie, place) / np.bincount(tie))[tie]
    first = np.cumsum(counts) - counts
    return ranks - first[graph] - (counts[graph] - 1) / 2


def agreement(maps: Sequence[np.ndarray], atom_ptr: np.ndarray) -> dict[str, Any] | None:
    """Return the mean Spearman correlation within structures over all pairs of `maps` [A], and its least and largest
    mean of a pair; None of fewer than two maps, or where they say nothing."""
    means = [_mean(spearman(one, other, atom_ptr)) for one, other in itertools.combinations(maps, 2)]
    means = [mean for mean in means if mean is not None]
    if not means:
        return None
    return {"spearman": float(np.mean(means)), "least": min(means), "most": max(means), "pairs": len(means)}


def randomisation(
    model: GraphModel, batches: Iterable[GraphBatch], maps: Maps, draws: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return what becomes of each map when the weights are made random from the top down (Adebayo et al. 2018,
    arXiv:1810.03292, cascading randomisation): method -> stages (which layer was last made random), spearman (its
    mean within structures, over `draws` draws), size (the same of absolute values: which atoms stand out, whatever
    the sign), spread (least and largest draw of the first at the end), passed.

    Matrices are drawn from a normal distribution around zero with the same root mean square, vectors are shuffled. A
    map of which either correlation is above SURVIVES when every weight is random fails; None: it is constant within
    every structure, and nothing can be said.
    """
    batches = list(batches)
    pointers = [batch.atom_ptr.cpu().numpy() for batch in batches]
    before = [_numpy(maps(model, batch)) for batch in batches]
    layers = layers_of(model, batches[0])
    found = {name: np.full((2, draws, len(layers)), np.nan) for name in before[0]}
    for draw in range(draws):
        generator, changed = torch.Generator().manual_seed(1000 * seed + draw), copy.deepcopy(model)
        for stage, (_, names) in enumerate(layers):
            _randomise(changed, names, generator)
            after = [_numpy(maps(changed, batch)) for batch in batches]
            for name in found:
                for which, view in enumerate((np.array, np.abs)):
                    pairs = zip(before, after, pointers, strict=True)
                    each = [spearman(view(one[name]), view(other[name]), ptr) for one, other, ptr in pairs]
                    mean = _mean(np.concatenate(each))
                    found[name][which, draw, stage] = np.nan if mean is None else mean
    return {name: _told(values, [layer for layer, _ in layers]) for name, values in found.items()}


def layers_of(model: nn.Module, batch: GraphBatch) -> list[tuple[str, list[str]]]:
    """Return the layers with weights, from the output to the input: (name, names of their parameters).

    A layer is a child of the model, or a member of a list of them. They are ordered as they are called when the model
    predicts for `batch`; one that is never called as a whole stands after the one that was made before it, and
    parameters of the model itself, such as a scale of elements, are part of the output.
    """
    layers: dict[str, list[str]] = {}
    lists = {name for name, child in model.named_modules() if isinstance(child, nn.ModuleList)} | {"inner"}
    own = [name for name, _ in model.named_parameters(recurse=False)]
    for name, _ in model.named_parameters():
        parts = name.split(".")
        depth = next(depth for depth in range(1, len(parts) + 1) if ".".join(parts[:depth]) not in lists)
        layers.setdefault(".".join(parts[:depth]), []).append(name)
    called: dict[str, int] = {}

    def note(name: str) -> None:
        called.setdefault(name, len(called))

    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: note(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    places, last = {}, -1
    for layer in layers:
        calls = [place for name, place in called.items() if name == layer or name.startswith(f"{layer}.")]
        places[layer] = last = len(called) if layer in own else min(calls, default=last)
    return sorted(layers.items(), key=lambda item: places[item[0]])[::-1]


def _randomise(model: nn.Module, names: Sequence[str], generator: torch.Generator) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in names:
            values = parameters[name]
            if values.dim() > 1:
                drawn = torch.randn(values.shape, generator=generator) * float(values.square().mean().sqrt())
            else:
                drawn = values.cpu()[torch.randperm(len(values), generator=generator)]
            values.copy_(drawn.to(values))


def _told(values: np.ndarray, layers: list[str]) -> dict[str, Any]:
    """values [2, draws, stages] -> what `randomisation` says of one map."""
    signed, size = ([_mean(stage) for stage in of_draws.T] for of_draws in values)
    last = values[0, :, -1][np.isfinite(values[0, :, -1])]
    ends = [mean for mean in (signed[-1], size[-1]) if mean is not None]
    return {
        "stages": layers,
        "spearman": signed,
        "size": size,
        "spread": [float(last.min()), float(last.max())] if len(last) else None,
        "passed": max(ends) <= SURVIVES if ends else None,
    }


def _numpy(maps: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: values.double().cpu().numpy() for name, values in maps.items()}


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None
