"""A model's energies and forces as a recorded list of operations: the same numbers without autograd's bookkeeping,
which at the size of a molecule takes a third of the time. The node side.

Not for: forces that are trained on (train/objective.py).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from hpc_kit.data.batches import GraphBatch
from hpc_kit.train.objective import Objective

# Operations that give another view of a tensor: of weights they are done once.
_VIEWS = {"t", "view", "slice", "select", "detach", "expand", "unsqueeze", "transpose", "permute"}


def recorded(
    objective: Objective, batch: GraphBatch, target: int
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return a function of positions [N, 3] that gives what `objective.derive` gives first, predictions [G, T] and
    forces [N, 3], for graphs that are those of `batch` but for the positions: the same atoms and the same edges.

    Recording takes some seconds. Weights must not change afterwards.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # loads a good part of torch's compiler

    def derive(pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, forces, _ = objective.derive(replace(batch, pos=pos), target)
        return values, forces

    module = make_fx(derive)(batch.pos.detach().clone())
    _fold(module)
    module.graph.eliminate_dead_code()
    module.recompile()

    def call(pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return module(pos)

    return call


def _fold(module: fx.GraphModule) -> None:
    """Replace views of constants by what they give."""
    graph = module.graph
    for node in list(graph.nodes):
        name = str(node.target).removeprefix("aten.").split(".")[0]
        inputs = node.all_input_nodes
        if node.op != "call_function" or name not in _VIEWS or not inputs:
            continue
        if any(one.op != "get_attr" for one in inputs):
            continue
        given = fx.node.map_arg(node.args, lambda one: getattr(module, one.target))
        place = f"_folded{node.name}"
        module.register_buffer(place, node.target(*given, **node.kwargs).detach())
        with graph.inserting_before(node):
            constant = graph.get_attr(place)
        node.replace_all_uses_with(constant)
        graph.erase_node(node)
