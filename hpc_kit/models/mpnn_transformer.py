"""MPNN-transformer: self-attention among the atoms of a graph after message passing.

The framework's paper (Park et al. 2023, doi 10.1088/2632-2153/acd434, section 4.2) says of it that attention layers
were added to MPNN. Here they are pre-norm encoder layers (Vaswani et al. 2017, arXiv:1706.03762, section 3.1;
Xiong et al. 2020, arXiv:2002.04745, figure 1b) between the last step and Set2Set.
"""

import math

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.layers import Linear, padded_places
from hpc_kit.models.mpnn import MPNN
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import MPNNTransformer as Spec


class MPNNTransformer(MPNN):
    """MPNN whose atoms attend to all atoms of their graph, `attention_layers` times, before the readout."""

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__(spec, graph, targets)
        self.attention = nn.ModuleList(EncoderLayer(spec.hidden, spec.heads) for _ in range(spec.attention_layers))
        self.norm = nn.LayerNorm(spec.hidden)

    def refine(self, x: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        x = super().refine(x, batch)
        place, most = padded_places(batch.atom_ptr.diff(), batch.graph_of_atom())
        for layer in self.attention:
            x = layer(x, place, batch.graphs, most)
        return self.norm(x)


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + network(norm(x)), the network 4 times as wide, without dropout."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.project = Linear(hidden, 3 * hidden)
        self.join = Linear(hidden, hidden)
        self.network = nn.Sequential(Linear(hidden, 4 * hidden), nn.ReLU(), Linear(4 * hidden, hidden))

    def forward(self, x: torch.Tensor, place: torch.Tensor, graphs: int, most: int) -> torch.Tensor:
        """x [N, hidden]; place [N], where each atom stands among `graphs` times `most` -> [N, hidden]."""
        x = x + self.join(self._attend(self.project(self.norm1(x)), place, graphs, most))
        return x + self.network(self.norm2(x))

    def _attend(self, projected: torch.Tensor, place: torch.Tensor, graphs: int, most: int) -> torch.Tensor:
        """projected [N, 3 * hidden] -> [N, hidden].

        Written out, not torch's fused kernel, which cannot be differentiated twice, as training on forces needs.
        """
        hidden = projected.shape[1] // 3
        padded = projected.new_zeros(graphs * most, 3 * hidden).index_copy(0, place, projected)
        query, key, value = padded.view(graphs, most, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        empty = torch.ones(graphs * most, dtype=torch.bool, device=place.device).index_fill(0, place, False)
        score = query @ key.transpose(2, 3) / math.sqrt(hidden // self.heads)
        share = score.masked_fill(empty.view(graphs, 1, 1, most), -torch.inf).softmax(dim=-1)
        answer = (share @ value).transpose(1, 2).reshape(graphs * most, hidden)
        return answer.index_select(0, place)
