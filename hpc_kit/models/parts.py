"""What every model here is: `embed`, which makes features of each atom, and `head`, which makes the output of them.

Explanations, embedding maps and roughness need the two apart. Training calls `forward` and knows nothing of them.
"""

from collections.abc import Callable

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch

Embed = Callable[[GraphBatch], torch.Tensor]
Head = Callable[[torch.Tensor, GraphBatch], torch.Tensor]


class GraphModel(nn.Module):
    """A model whose forward(batch) is head(embed(batch), batch)."""

    # Whether `head` is linear in the features but for a constant of each graph. The sum over a graph's atoms of
    # features times the output's gradient with respect to them, plus head(zeros), is then exactly the output.
    linear_head = False

    def start(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, F0]: what `embed` begins with, features of each atom that depend on its element alone."""
        raise NotImplementedError

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, F]: the features of each atom."""
        raise NotImplementedError

    def head(self, features: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """features [N, F] of the atoms of `batch` -> [G, targets]."""
        raise NotImplementedError

    def forward(self, batch: GraphBatch) -> torch.Tensor:
        """Return [G, targets]."""
        return self.head(self.embed(batch), batch)

    def parts(self, batch: GraphBatch) -> tuple[Embed, Head]:
        """Return `embed` and `head`, for work that needs them apart; `batch` is of one graph or more.

        Raises InputError where a module of the user's own does not offer them, or where what they give on `batch` is
        not what its `forward` gives.
        """
        return self.embed, self.head
