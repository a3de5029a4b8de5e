"""CGCNN as published (Xie & Grossman 2018, doi 10.1103/PhysRevLett.120.145301): every atom has the same number of
neighbours, and those it lacks are padding that is convolved over like the others."""

import torch
from torch import Tensor

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.cgcnn import CGCNN, from_upstream
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import CGCNNMatrix as Spec

__all__ = ["CGCNNMatrix", "from_upstream"]


class CGCNNMatrix(CGCNN):
    """CGCNN over a matrix [N, M] of neighbours, M = graph.max_neighbors.

    As in the authors' code (cgcnn/data.py), a missing neighbour is the first atom of the crystal at 1 Angstrom beyond
    the cutoff: its bond features vanish, its atom features do not, and it counts in the batch normalisation.
    """

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        if graph.max_neighbors is None:
            raise InputError(
                "model cgcnn_matrix needs data.graph.max_neighbors, the number of neighbours that every atom is"
                " padded to (its authors use 12, with cutoff 8.0); model cgcnn takes any number"
            )
        super().__init__(spec, graph, targets)
        self.count, self.cutoff = graph.max_neighbors, graph.cutoff

    def pairs(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return src, dst and distance [N M]. Raises InputError where an atom has more than M neighbours."""
        _, found, distance = super().pairs(batch)
        degree = torch.bincount(found, minlength=len(batch.z))
        if len(found) and (most := int(degree.max())) > self.count:
            raise InputError(
                f"model cgcnn_matrix: an atom has {most} neighbours, data.graph.max_neighbors is {self.count}. Rule"
                " radius keeps that many; rule alignn keeps more"
            )
        places = torch.arange(len(found), device=found.device) - (degree.cumsum(0) - degree).index_select(0, found)
        places += found * self.count
        dst = torch.arange(len(batch.z), device=found.device).repeat_interleave(self.count)
        first = batch.atom_ptr.index_select(0, batch.graph_of_atom())
        src = first.repeat_interleave(self.count).index_copy(0, places, batch.src)
        return src, dst, distance.new_full([len(dst)], self.cutoff + 1.0).index_copy(0, places, distance)
