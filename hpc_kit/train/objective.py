"""What is minimised: a model's error on a batch, and what the model predicts for one."""

from dataclasses import replace

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.spec.train import Train
from hpc_kit.train.scale import Scale

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(nn.Module):
    """A model together with the scale of its targets and the loss. Forces are minus the gradient of the energy."""

    def __init__(self, model: nn.Module, scale: Scale, train: Train, forces: bool = False):
        super().__init__()
        self.model, self.scale, self.forces = model, scale, forces
        self._amp = AMP.get(train.precision)
        self._error = {"mse": torch.square, "mae": torch.abs, "huber": _huber(train.huber_delta)}[train.loss]
        self._weights = (train.energy_weight, train.force_weight) if forces else (1.0, 0.0)

    def forward(self, batch: GraphBatch, graphs: int, atoms: int) -> torch.Tensor:
        """Return this batch's part of the loss of a step over `graphs` graphs and `atoms` atoms in all.

        Divided by the counts of the whole step, so that several batches, or several ranks, add up to one large batch.
        """
        output, forces = self._outputs(batch, create_graph=True)
        error = self._error(output - self.scale.standardize(batch))
        loss = self._weights[0] * error.sum() / (graphs * error.shape[1])
        if self.forces:
            error = self._error(forces - (batch.forces / self.scale.std).to(forces.dtype))
            loss = loss + self._weights[1] * error.sum() / (3 * atoms)
        return loss

    def predict(self, batch: GraphBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (predictions [G, T], forces [N, 3] or None) in the targets' units and per Angstrom, float64."""
        with torch.set_grad_enabled(self.forces):
            output, forces = self._outputs(batch, create_graph=False)
        if forces is not None:
            forces = forces.double() * self.scale.std
        return self.scale.restore(output.detach(), batch), forces

    def derive(
        self, batch: GraphBatch, target: int = 0, strain: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return (predictions [G, T], forces [N, 3], derivative by a strain of each graph [G, 3, 3] or None): minus
        the gradient of one target by the positions, and its derivative by a symmetric strain of positions and cells,
        which over the volume is the stress. float64, in the target's unit, per Angstrom; whatever was trained on."""
        pos = batch.pos.detach().requires_grad_()
        leaves, moved = [pos], replace(batch, pos=pos)
        if strain:
            leaves.append(pos.new_zeros(batch.graphs, 3, 3, requires_grad=True))
            symmetric = (leaves[1] + leaves[1].mT) / 2
            each = symmetric.index_select(0, batch.graph_of_atom())
            pos, cell = pos + torch.einsum("nk,nkx->nx", pos, each), batch.cell.to(pos.dtype)
            moved = replace(batch, pos=pos, cell=cell + cell @ symmetric)
        with torch.enable_grad():
            output = self._run(moved)
            found = torch.autograd.grad(output[:, target].sum(), leaves, materialize_grads=True)
        forces, *strained = (gradient.double() * self.scale.std[target] for gradient in found)
        return self.scale.restore(output.detach(), batch), -forces, *(strained or [None])

    def _outputs(self, batch: GraphBatch, create_graph: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the standardised outputs and forces, in float32."""
        if self.forces:
            batch = replace(batch, pos=batch.pos.detach().requires_grad_())
        output = self._run(batch)
        if not self.forces:
            return output, None
        (gradient,) = torch.autograd.grad(output.sum(), batch.pos, create_graph=create_graph)
        return output, -gradient

    def _run(self, batch: GraphBatch) -> torch.Tensor:
        """Return the model's outputs, in float32 or float64."""
        with torch.autocast(batch.pos.device.type, self._amp, enabled=self._amp is not None):
            output = self.model(batch)
        return output if output.dtype == torch.float64 else output.float()


def _huber(delta: float):
    """Return Huber's error, quadratic below `delta` and linear above (doi 10.1214/aoms/1177703732)."""

    def error(difference: torch.Tensor) -> torch.Tensor:
        return nn.functional.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)

    return error
