"""The loss: parts add up to the whole, forces are the gradient, and what comes out is in the targets' units."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from some_graphs import batch_of, some_molecules

from hpc_kit.models import build_model
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import SchNet
from hpc_kit.spec.train import Train
from hpc_kit.train.objective import Objective
from hpc_kit.train.scale import Scale

GRAPH = Graph(cutoff=4.0)
SPEC = SchNet(hidden=16, filters=16, interactions=2, gaussians=12)
ATOMS = some_molecules()


def objective(forces: bool = False, double: bool = False, **settings) -> Objective:
    torch.manual_seed(0)
    made = Objective(build_model(SPEC, GRAPH), Scale([2.0], [3.0], per_atom=True), Train(**settings), forces)
    return made.double() if double else made


def some_batch(count: slice = slice(None), forces: bool = True):
    batch = batch_of(ATOMS[count], GRAPH, forces)
    if forces:
        numbers = torch.arange(len(batch.z) * 3, dtype=torch.float32).view(-1, 3)
        batch.forces = torch.sin(numbers)
    return batch


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("forces", [False, True])
def test_losses_of_parts_add_up_to_that_of_the_whole(loss, forces):
    made = objective(forces, loss=loss)
    whole = some_batch()
    counts = (whole.graphs, len(whole.z))
    parts = [batch_of(ATOMS[:2], GRAPH, True), batch_of(ATOMS[2:], GRAPH, True)]
    at = len(parts[0].z)
    parts[0].forces, parts[1].forces = whole.forces[:at], whole.forces[at:]
    parts[1].targets = whole.targets[2:]
    total = made(whole, *counts)
    assert float(sum(made(part, *counts) for part in parts)) == pytest.approx(float(total), rel=1e-5)


def test_loss_is_the_one_that_is_named():
    batch = some_batch(forces=False)
    difference = (objective().model(batch) - objective().scale.standardize(batch)).detach()
    found = {name: float(objective(loss=name)(batch, batch.graphs, len(batch.z))) for name in ("mse", "mae", "huber")}
    wanted = {
        "mse": difference.square().mean(),
        "mae": difference.abs().mean(),
        "huber": torch.where(difference.abs() < 1, difference.square() / 2, difference.abs() - 0.5).mean(),
    }
    assert found == pytest.approx({name: float(value) for name, value in wanted.items()}, rel=1e-5)


def test_energies_and_forces_are_weighed():
    batch = some_batch()
    counts = (batch.graphs, len(batch.z))
    energy, force = (
        float(objective(True, energy_weight=e, force_weight=f)(batch, *counts)) for e, f in ((1.0, 0.0), (0.0, 1.0))
    )
    both = float(objective(True, energy_weight=0.25, force_weight=4.0)(batch, *counts))
    assert both == pytest.approx(0.25 * energy + 4.0 * force, rel=1e-5)


def test_forces_are_minus_the_gradient_of_the_energy():
    made = objective(forces=True, double=True)
    batch = batch_of(ATOMS[1:2], GRAPH, True)
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    energy, forces = made.predict(batch)
    assert energy.dtype == forces.dtype == torch.float64
    step = 1e-3  # outputs are rounded to float32
    for atom, axis in ((0, 0), (3, 1), (8, 2)):
        ends = []
        for sign in (1, -1):
            moved = batch.pos.clone()
            moved[atom, axis] += sign * step
            ends.append(float(made.model(replace(batch, pos=moved))) * 3.0)
        assert float(forces[atom, axis]) == pytest.approx(-(ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-5)


def test_predictions_are_in_the_targets_unit():
    batch = some_batch(forces=False)
    made = objective()
    atoms = batch.atom_ptr.diff().double().unsqueeze(1)
    torch.testing.assert_close(made.predict(batch)[0], made.model(batch).double() * 3.0 + 2.0 * atoms)


def test_gradients_reach_the_weights_through_the_forces():
    made = objective(forces=True, energy_weight=0.0, force_weight=1.0)
    batch = some_batch()
    made(batch, batch.graphs, len(batch.z)).backward()
    moved = [name for name, p in made.model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    assert np.mean([name in moved for name, _ in made.model.named_parameters()]) > 0.9
