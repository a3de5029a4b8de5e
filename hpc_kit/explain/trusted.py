"""The tests of trust.py on several models and all their methods: gathers what they need, tells what they found."""

from typing import Any

import numpy as np
import torch

from hpc_kit.data.batches import GraphBatch
from hpc_kit.explain.attribution import attribute
from hpc_kit.explain.explainer import Explainer
from hpc_kit.explain.job import Trust
from hpc_kit.explain.trust import agreement, fidelity, randomisation, spearman, told_fidelity
from hpc_kit.models.parts import GraphModel

Batches = list[tuple[list[str], GraphBatch]]


class Trusted:
    """What is found on trust, a model after another; `between` compares them where they saw the same structures."""

    def __init__(self, asked: Trust, explainers: list[Explainer]):
        self.asked, self._told = asked, {}
        self._means: dict[str, dict[str, dict[str, np.ndarray]]] = {one.label: {} for one in explainers}

    def measure(self, explainer: Explainer, batches: Batches) -> None:
        """Apply all tests to a model's methods on (identifiers, batch) pairs; fidelity and random weights to the
        first model of an ensemble."""
        member, place = explainer.predictor.members[0], explainer.place
        generator = torch.Generator().manual_seed(0)
        found, maps = [], []
        for ids, batch in batches:
            of_models = [explainer.maps(n, batch).maps for n in range(len(explainer.predictor.members))]
            found.append(
                fidelity(member.model, batch, place, of_models[0], self.asked.sparsity, self.asked.random, generator)
            )
            each = [{name: values.cpu().numpy() for name, values in one.items()} for one in of_models]
            maps.append(each)
            self._keep(explainer.label, ids, batch.atom_ptr.cpu().numpy(), each)

        def again(model: GraphModel, batch: GraphBatch) -> dict[str, torch.Tensor]:
            return attribute(model, member.scale, batch, place, explainer.methods, explainer.relu).maps

        graphs = [batch for _, batch in batches]
        random = randomisation(member.model, graphs, again, self.asked.draws)
        sizes = np.concatenate([np.diff(batch.atom_ptr.cpu().numpy()) for batch in graphs])
        ptr = np.concatenate([[0], np.cumsum(sizes)])
        factor = float(member.scale.std[place])
        self._told[explainer.label] = {
            method: {
                "structures": len(sizes),
                "sparsity": self.asked.sparsity,
                "fidelity": told_fidelity(found, method, factor),
                "agreement": agreement(
                    [
                        np.concatenate([each[number][method] for each in maps])
                        for number in range(len(explainer.predictor.members))
                    ],
                    ptr,
                ),
                "randomisation": random[method],
            }
            for method in explainer.methods
        }

    def told(self, label: str) -> dict[str, Any]:
        """Return method -> structures, sparsity, fidelity, agreement, randomisation of one model."""
        return self._told[label]

    def between(self) -> dict[str, Any]:
        """Return method -> "one and other" -> the mean Spearman correlation of two models' maps, and of how many
        structures; of structures that both explained."""
        labels, found = list(self._means), {}
        pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
        for a, b in pairs:
            shared = [id for id in self._means[a] if id in self._means[b]]
            for method in next(iter(self._means[a].values()), {}):
                each = []
                for id in shared:
                    one, other = self._means[a][id][method], self._means[b][id][method]
                    if len(one) == len(other):
                        each += spearman(one, other, np.array([0, len(one)])).tolist()
                each = [value for value in each if value == value]
                if each:
                    mean = {"spearman": float(np.mean(each)), "structures": len(each)}
                    found.setdefault(method, {})[f"{a} and {b}"] = mean
        return found

    def _keep(self, label: str, ids: list[str], ptr: np.ndarray, maps: list[dict[str, np.ndarray]]) -> None:
        for number, id in enumerate(ids):
            atoms = slice(ptr[number], ptr[number + 1])
            self._means[label][id] = {m: np.mean([one[m][atoms] for one in maps], axis=0) for m in maps[0]}
