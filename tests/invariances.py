"""What must hold for every model: blind to what does not matter, differentiable in what does. Used in float64."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from ase import Atoms
from some_graphs import batch_of, some_crystals, some_molecules

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models import build_model
from hpc_kit.spec import models
from hpc_kit.spec.data import Graph

RADIUS = Graph(cutoff=4.0)
NEAREST = Graph(cutoff=6.0, max_neighbors=9)
STRUCTURES = pytest.mark.parametrize("structures", [some_molecules(), some_crystals()], ids=["molecules", "crystals"])
GRAPHS = pytest.mark.parametrize("graph", [RADIUS, NEAREST], ids=["radius", "nearest"])

_MESSAGES = {"hidden": 8, "edge_hidden": 12, "gaussians": 10}
_MODULES = {"hidden": 12, "basis": 10}
SMALL_SCHNET = models.SchNet(hidden=24, filters=16, interactions=3, gaussians=20)
SMALL_PHYSNET = models.PhysNet(
    interactions=2, residual_interaction=2, residual_atomic=1, residual_output=1, **_MODULES
)
SMALL_PHYSNET_CHARGED = SMALL_PHYSNET.model_copy(update={"electrostatics": True})
SMALL_PHYSNET_PLAIN = models.PhysNet(
    interactions=3, residual_interaction=0, residual_atomic=0, residual_output=0, **_MODULES
)
SMALL_MPNN = models.MPNN(steps=3, set2set_steps=3, **_MESSAGES)
SMALL_MPNN_TRANSFORMER = models.MPNNTransformer(steps=2, set2set_steps=2, attention_layers=2, heads=2, **_MESSAGES)


def by_name(spec: models.Model) -> str:
    return spec.name


def random_model(spec: models.Model, graph: Graph = RADIUS, targets: int = 1) -> torch.nn.Module:
    """Return a model in float64, in training mode; parameters that start as zeros are drawn too."""
    torch.manual_seed(0)
    model = build_model(spec, graph, targets).double()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch64(atoms: list[Atoms], graph: Graph = RADIUS) -> GraphBatch:
    batch = batch_of(atoms, graph)
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    return batch


def no_graphs(periodic: bool) -> GraphBatch:
    batch = batch64(some_crystals() if periodic else some_molecules())
    kept = {"atom_ptr": 1, "edge_ptr": 1}
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return GraphBatch(**{name: None if v is None else v[: kept.get(name, 0)] for name, v in values.items()})


def check_motion(model: torch.nn.Module, structures: list[Atoms]) -> None:
    """Rotation with translation, and another order of the atoms, change the output by rounding only.

    Positions are stored in float32, so that rounding is 1e-7 Angstrom.
    """
    expected = model(batch64(structures))
    generator = np.random.default_rng(1)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)  # proper: some later model may tell mirror images apart
    moved, reordered = [], []
    for atoms in structures:
        atoms = atoms.copy()
        reordered.append(atoms[generator.permutation(len(atoms))])
        atoms.positions = atoms.positions @ rotation + [1.0, -2.0, 3.0]
        atoms.cell = np.asarray(atoms.cell) @ rotation
        moved.append(atoms)
    torch.testing.assert_close(model(batch64(moved)), expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(model(batch64(reordered)), expected, rtol=2e-5, atol=2e-5)


def check_supercell(model: torch.nn.Module, extensive: bool) -> None:
    once = model(batch64(some_crystals()))
    thrice = model(batch64([atoms.repeat((3, 1, 1)) for atoms in some_crystals()]))
    torch.testing.assert_close(thrice, 3 * once if extensive else once, rtol=2e-5, atol=2e-5)


def check_one_by_one(model: torch.nn.Module, structures: list[Atoms]) -> None:
    alone = torch.cat([model(batch64([atoms])) for atoms in structures])
    torch.testing.assert_close(model(batch64(structures)), alone)


def check_nothing(model: torch.nn.Module, targets: int) -> None:
    """No graphs give no rows; graphs without an edge give finite numbers and gradients."""
    for periodic in (False, True):
        assert model(no_graphs(periodic)).shape == (0, targets)
    out = model(batch64([Atoms("H"), Atoms("OO", [[0, 0, 0], [9, 0, 0]])]))
    assert out.shape == (2, targets)
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def check_gradients_reach_all(model: torch.nn.Module, batch: GraphBatch) -> None:
    """Distributed training refuses parameters without a part in the result."""
    model(batch).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def check_forces(model: torch.nn.Module, structures: list[Atoms]) -> None:
    """Minus the gradient equals finite differences, and so does a loss on forces along a direction of weights."""
    batch = batch64(structures)
    forces = _forces(model, batch, train=False)
    direction = torch.from_numpy(np.random.default_rng(2).normal(size=forces.shape))
    start = batch.pos.detach()

    def energy(step: float) -> float:
        batch.pos = start + step * direction
        return model(batch).sum().item()

    torch.testing.assert_close(-(forces * direction).sum().item(), _slope(energy), rtol=1e-5, atol=1e-8)
    batch.pos = start

    weights = list(model.parameters())
    gradient = torch.autograd.grad(_loss(model, batch), weights, allow_unused=True)
    generator = np.random.default_rng(3)
    moves = [torch.from_numpy(generator.normal(size=w.shape)) for w in weights]
    expected = sum((g * m).sum().item() for g, m in zip(gradient, moves, strict=True) if g is not None)
    begun = [w.detach().clone() for w in weights]

    def loss(step: float) -> float:
        with torch.no_grad():
            for w, b, m in zip(weights, begun, moves, strict=True):
                w.copy_(b + step * m)
        return _loss(model, batch).item()

    torch.testing.assert_close(expected, _slope(loss), rtol=1e-5, atol=1e-8)


def check_autocast(model: torch.nn.Module, batch: GraphBatch) -> None:
    """bfloat16 comes near; the model and the batch come in float32."""
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(batch)
    near.float().sum().backward()
    torch.testing.assert_close(near.float(), exact, rtol=0.1, atol=0.1 * float(exact.detach().abs().max()))


def _loss(model: torch.nn.Module, batch: GraphBatch) -> torch.Tensor:
    return _forces(model, batch, train=True).square().sum()


def _forces(model: torch.nn.Module, batch: GraphBatch, train: bool) -> torch.Tensor:
    batch.pos = batch.pos.detach().requires_grad_()
    return -torch.autograd.grad(model(batch).sum(), batch.pos, create_graph=train)[0]


def _slope(function: Callable[[float], float], step: float = 1e-5) -> float:
    """The derivative at 0 from four points: the error falls with step^4."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)
