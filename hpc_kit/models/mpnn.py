"""MPNN (Gilmer et al. 2017, arXiv:1704.01212), its enn-s2s: an edge network, a GRU and Set2Set."""

from typing import NamedTuple

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.layers import GaussianBasis, Linear, padded_places, sum_by_graph
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import MPNN as Spec

# Beginnings of names in a state of torch_geometric's layers, and ours.
_UPSTREAM = {
    "conv.nn.0.": "message.first.",
    "conv.nn.2.": "message.second.",
    "lin0.": "join.",
    "set2set.lstm.": "readout.lstm.",
    "lin1.": "output.0.",
    "lin2.": "output.2.",
}


class MPNN(GraphModel):
    """`steps` rounds of messages sum_j A(e_ij) x_j, taken up by a GRU, then Set2Set over the atoms.

    Section 3 (GRU of GG-NN) and section 5 (edge network, Set2Set over the pairs of an atom's last and first
    features) of the paper. e_ij is a Gaussian expansion of the distance.
    """

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        hidden = spec.hidden
        self.steps = spec.steps
        self.embedding = nn.Embedding(119, hidden)
        self.basis = GaussianBasis(graph.cutoff, spec.gaussians)
        self.message = EdgeNetwork(hidden, spec.gaussians, spec.edge_hidden)
        self.gru = nn.GRUCell(hidden, hidden)
        self.join = Linear(2 * hidden, hidden)
        self.readout = Set2Set(hidden, spec.set2set_steps)
        self.output = nn.Sequential(Linear(2 * hidden, hidden), nn.ReLU(), Linear(hidden, targets))

    def start(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden]: the embedding of each atom's element."""
        return self.embedding(batch.z)

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden]: what Set2Set sees of each atom, the last layer before atoms are pooled."""
        start = self.start(batch)
        return self.join(torch.cat([self.refine(start, batch), start], dim=1))

    def refine(self, x: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """x [N, hidden] -> [N, hidden] after all steps."""
        edges = self.message.prepare(self.basis(batch.edge_vectors().norm(dim=-1)), batch)
        for _ in range(self.steps):
            x = self.gru(self.message(x, edges), x)
        return x

    def head(self, features: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """features [N, hidden] -> [G, targets]: Set2Set and the network after it."""
        return self.output(self.readout(features, batch.graph_of_atom(), batch.graphs))


class Edges(NamedTuple):
    """What all steps share: hidden features [N, n, K + 1] of each atom's at most n edges, the last of them 1; src
    [N * n]; the second layer's matrices and its bias as one matrix [(K + 1) * d, d]. Empty places are zero."""

    features: torch.Tensor
    src: torch.Tensor
    matrix: torch.Tensor


class EdgeNetwork(nn.Module):
    """Messages sum_j A(e_ij) x_j, where A(e) is a network with one hidden layer and d x d outputs (section 5).

    A(e) = sum_k h_k(e) W_k + B is linear in the K hidden features h, so the message is
    sum_k W_k (sum_j h_k(e_ij) x_j) + B sum_j x_j: one d x d matrix a feature and atom instead of one an edge. The
    inner sums are one batched product with the edges of each atom side by side; h is the same in all steps.
    """

    def __init__(self, hidden: int, gaussians: int, edge_hidden: int):
        super().__init__()
        self.first = Linear(gaussians, edge_hidden)
        self.second = Linear(edge_hidden, hidden * hidden)

    def prepare(self, basis: torch.Tensor, batch: GraphBatch) -> Edges:
        """basis [E, gaussians] of the edges of `batch`. Waits for the device once, for the largest degree."""
        hidden = torch.relu(self.first(basis))
        weight = self.second.weight
        width = round(weight.shape[0] ** 0.5)
        # Rows of the layer number (input, output), as in torch_geometric's NNConv.
        matrices = weight.view(width, width, -1).permute(2, 0, 1)
        matrix = torch.cat([matrices, self.second.bias.view(1, width, width)]).view(-1, width)
        place, most = padded_places(torch.bincount(batch.dst, minlength=len(batch.z)), batch.dst)
        edges = len(batch.dst)
        edge = batch.dst.new_full((len(batch.z) * most,), edges).scatter_(
            0, place, torch.arange(edges, device=place.device)
        )
        features = torch.cat([nn.functional.pad(hidden, (0, 1), value=1.0), hidden.new_zeros(1, hidden.shape[1] + 1)])
        features = features.index_select(0, edge).view(len(batch.z), most, hidden.shape[1] + 1)
        src = torch.cat([batch.src, batch.src.new_zeros(1)]).index_select(0, edge)
        return Edges(features, src, matrix)

    def forward(self, x: torch.Tensor, edges: Edges) -> torch.Tensor:
        """x [N, d] -> [N, d]."""
        heard = x.index_select(0, edges.src).view(*edges.features.shape[:2], x.shape[1])
        sums = torch.bmm(edges.features.transpose(1, 2), heard.to(edges.features.dtype))
        return sums.flatten(1) @ edges.matrix.to(sums.dtype)


class Set2Set(nn.Module):
    """`steps` rounds in which an LSTM asks a query of the atoms and reads their softmax-weighted mean; the result is
    the last query and answer (Vinyals et al. 2016, arXiv:1511.06391, section 4.2)."""

    def __init__(self, hidden: int, steps: int):
        super().__init__()
        self.hidden, self.steps = hidden, steps
        self.lstm = nn.LSTMCell(2 * hidden, hidden)

    def forward(self, x: torch.Tensor, graph_of_atom: torch.Tensor, graphs: int) -> torch.Tensor:
        """x [N, hidden] -> [graphs, 2 * hidden]."""
        query = cell = x.new_zeros(graphs, self.hidden)
        both = x.new_zeros(graphs, 2 * self.hidden)
        for _ in range(self.steps):
            query, cell = self.lstm(both, (query, cell))
            score = (x * query.index_select(0, graph_of_atom)).sum(dim=1)
            # The softmax does not depend on what is subtracted, so nothing is to be differentiated there.
            largest = score.new_full((graphs,), -torch.inf)
            largest = largest.scatter_reduce(0, graph_of_atom, score.detach(), "amax")
            share = torch.exp(score - largest.index_select(0, graph_of_atom)).unsqueeze(1)
            answer = sum_by_graph(share * x, graph_of_atom, graphs) / sum_by_graph(share, graph_of_atom, graphs)
            both = torch.cat([query, answer], dim=1)
        return both


def from_upstream(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the state (or gradients) of the same model made of torch_geometric's layers, named as in its example
    examples/qm9_nn_conv.py (`conv`, `gru`, `set2set`, `lin0` to `lin2`), to ours."""
    renamed = {}
    for key, value in state.items():
        for theirs, ours in _UPSTREAM.items():
            key = key.replace(theirs, ours)
        renamed[key.removesuffix("_l0") if key.startswith(("gru.", "readout.")) else key] = value
    return renamed
