"""TorchMD-NET's equivariant transformer: equal to the package's with its weights, forces and their gradients too."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from some_graphs import batch_of, rattled, some_crystals, some_molecules, stored_reference

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models import build_model
from hpc_kit.models.torchmd_et import TorchMDET, from_upstream
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import TorchMDET as Spec

CUTOFF = Graph(cutoff=5.0)
SMALL = {"hidden": 8, "layers": 2, "heads": 4, "basis": 6}
CASES = [  # those of tests/references/torchmd_et.py
    {},
    {"distance_influence": "keys", "neighbor_embedding": False, "basis_kind": "gaussian", "trainable_basis": True},
    {"distance_influence": "values", "trainable_basis": True, "vector_cutoff": True},
    {"distance_influence": "none", "basis_kind": "gaussian", "layers": 3, "heads": 2},
]


def drawn(graph: Graph = CUTOFF, dtype: torch.dtype = torch.float64, **changes) -> TorchMDET:
    """Return a model whose weights are all drawn, biases too."""
    torch.manual_seed(0)
    model = TorchMDET(Spec(**SMALL | changes), graph).to(dtype)
    for name, weight in model.named_parameters():
        if not name.startswith("basis."):
            torch.nn.init.normal_(weight, std=0.5 if weight.dim() == 1 else weight.shape[1] ** -0.5)
    return model


def double(batch: GraphBatch) -> GraphBatch:
    return replace(batch, pos=batch.pos.double(), cell=batch.cell.double())


def energies_and_forces(model, batch: GraphBatch) -> tuple[torch.Tensor, torch.Tensor]:
    batch = replace(batch, pos=batch.pos.detach().requires_grad_())
    energy = model(batch)
    return energy, -torch.autograd.grad(energy.sum(), batch.pos, create_graph=True)[0]


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, np.ndarray], GraphBatch]:
    return stored_reference(Path(__file__).parent.parent / "references" / "torchmd_et.npz")


def of_case(content: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in content.items() if k.startswith(prefix)}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    """Assert that two tensors differ by no more than `tolerance` of the largest number of theirs."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_energies_forces_and_gradients_equal_the_packages(reference, number):
    content, batch = reference
    model = TorchMDET(Spec(**SMALL | CASES[number]), CUTOFF)
    model.load_state_dict(from_upstream(of_case(content, f"{number}/weights/")))
    energy, forces = energies_and_forces(model, batch)
    close(energy, torch.from_numpy(content[f"{number}/output"]), 1e-5)
    close(forces, torch.from_numpy(content[f"{number}/forces"]), 1e-4)

    for loss, kind in ((energy.sum(), "gradient"), (forces.square().sum(), "force_gradient")):
        model.zero_grad()
        loss.backward(retain_graph=True)
        theirs = of_case(content, f"{number}/{kind}/")
        # The last layer of ours is theirs times std: its gradient is theirs over std.
        std = torch.from_numpy(content[f"{number}/weights/std"])
        expected = copy.deepcopy(model)
        for p in expected.parameters():
            torch.nn.init.zeros_(p)
        expected.load_state_dict(from_upstream(theirs | {"std": 1.0 / std}), strict=False)
        found = 0.0
        for (name, p), (_, q) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
            grad = torch.zeros_like(p) if p.grad is None else p.grad  # a bias moves no force
            close(grad, q.detach(), 1e-4)
            found += float((q if not name.startswith("output.") else q * std).detach().square().sum())
        # What from_upstream leaves out had no gradient.
        assert found == pytest.approx(sum(float(g.square().sum()) for g in theirs.values()), rel=1e-5)


def test_a_checkpoint_under_lightnings_and_older_names_loads(reference):
    content, batch = reference
    state = of_case(content, "0/weights/")
    old = {f"model.{name.replace('update_net.layers.', 'update_net.')}": value for name, value in state.items()}
    model = TorchMDET(Spec(**SMALL), CUTOFF)
    model.load_state_dict(from_upstream(old))
    close(model(batch), torch.from_numpy(content["0/output"]), 1e-5)


def test_a_checkpoint_of_other_settings_or_with_a_prior_is_refused_by_name(reference):
    state = of_case(reference[0], "0/weights/")
    with pytest.raises(RuntimeError, match="layers.0.filter.weight"):
        TorchMDET(Spec(**SMALL, distance_influence="none"), CUTOFF).load_state_dict(from_upstream(state))
    with pytest.raises(RuntimeError, match="prior_model.0.atomref.weight"):
        state["prior_model.0.atomref.weight"] = torch.zeros(100, 1)
        TorchMDET(Spec(**SMALL), CUTOFF).load_state_dict(from_upstream(state))


def test_own_checkpoints_load_as_they_are():
    first, second = drawn(), drawn(layers=2)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_molecule_across_a_periodic_boundary_equals_the_free_one(reference):
    content, _ = reference
    model = TorchMDET(Spec(**SMALL), CUTOFF)
    model.load_state_dict(from_upstream(of_case(content, "0/weights/")))
    molecules = some_molecules()
    for atoms in molecules:
        atoms.set_cell([[14.0, 0, 0], [3.0, 15.0, 0], [1.0, 2.0, 16.0]])
        atoms.pbc = True
        atoms.wrap()
    batch = batch_of(molecules, CUTOFF)
    assert batch.shift.any()
    energy, _ = energies_and_forces(model, batch)
    close(energy, torch.from_numpy(content["0/output"]), 1e-5)


@pytest.mark.parametrize("structures", [some_molecules, some_crystals])
@pytest.mark.parametrize("changes", CASES)
def test_energies_stay_and_forces_turn_with_the_structure(structures, changes):
    model, batch = drawn(**changes), double(batch_of(structures(), CUTOFF))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    turn[:, 0] *= -torch.linalg.det(turn)  # a reflection too
    move = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    energy, forces = energies_and_forces(model, batch)
    turned, turned_forces = energies_and_forces(
        model, replace(batch, pos=batch.pos @ turn + move, cell=batch.cell @ turn)
    )
    torch.testing.assert_close(turned, energy)
    torch.testing.assert_close(turned_forces, forces @ turn)


def test_the_order_of_atoms_does_not_matter():
    model, atoms = drawn(), some_molecules()[1]
    order = np.random.default_rng(0).permutation(len(atoms))
    energy, forces = energies_and_forces(model, double(batch_of([atoms], CUTOFF)))
    other, other_forces = energies_and_forces(model, double(batch_of([atoms[order]], CUTOFF)))
    torch.testing.assert_close(other, energy)
    torch.testing.assert_close(other_forces, forces[order])


def test_a_supercell_has_the_energy_of_its_cells():
    model, batch = drawn(), double(batch_of(some_crystals(), CUTOFF))
    repeated = double(batch_of([atoms.repeat((2, 1, 1)) for atoms in some_crystals()], CUTOFF))
    torch.testing.assert_close(model(repeated), 2 * model(batch), rtol=1e-5, atol=1e-5)
    model.readout = "mean"
    torch.testing.assert_close(model(repeated), model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("graph", [Graph(cutoff=5.0, max_neighbors=8), Graph(rule="alignn", max_neighbors=12)])
def test_other_rules_of_neighbours_have_forces_too(graph):
    model, batch = drawn(graph), double(batch_of(some_crystals(), graph))
    energy, forces = energies_and_forces(model, batch)
    pos = batch.pos.clone()
    pos[7, 1] += 1e-4
    higher = model(replace(batch, pos=pos)).sum()
    pos[7, 1] -= 2e-4
    torch.testing.assert_close(forces[7, 1], (model(replace(batch, pos=pos)).sum() - higher) / 2e-4)


@pytest.mark.parametrize("structures", [some_molecules, some_crystals])
def test_forces_are_the_slope_of_the_energy(structures):
    model, batch = drawn(), double(batch_of(structures(), CUTOFF))
    _, forces = energies_and_forces(model, batch)
    for atom, axis in ((0, 0), (4, 1), (len(batch.z) - 1, 2)):
        energies = []
        for step in (1e-4, -1e-4):
            pos = batch.pos.clone()
            pos[atom, axis] += step
            energies.append(model(replace(batch, pos=pos)).sum())
        torch.testing.assert_close(forces[atom, axis], -(energies[0] - energies[1]) / 2e-4, rtol=1e-5, atol=1e-6)


def test_batch_equals_one_by_one_and_atoms_alone_have_no_force():
    model, atoms = drawn(), [*some_molecules(), some_molecules()[0][:1]]
    energy, forces = energies_and_forces(model, double(batch_of(atoms, CUTOFF)))
    alone = [energies_and_forces(model, double(batch_of([one], CUTOFF))) for one in atoms]
    torch.testing.assert_close(energy, torch.cat([e for e, _ in alone]))
    torch.testing.assert_close(forces, torch.cat([f for _, f in alone]))
    assert torch.equal(forces[-1], torch.zeros(3, dtype=torch.float64))


def test_graphs_without_edges_and_no_graphs_at_all():
    model = drawn(dtype=torch.float32)
    lonely = batch_of([some_molecules()[0][:1]], CUTOFF)
    energy, forces = energies_and_forces(model, lonely)
    (energy.sum() + forces.sum()).backward()
    assert energy.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    nothing = replace(
        lonely,
        **{name: getattr(lonely, name)[:0] for name in ("z", "pos", "cell", "targets")},
        atom_ptr=lonely.atom_ptr[:1],
        edge_ptr=lonely.edge_ptr[:1],
    )
    energy, forces = energies_and_forces(model, nothing)
    assert energy.shape == (0, 1) and forces.shape == (0, 3)


def test_every_weight_has_a_gradient():
    model = drawn()
    model(double(batch_of(some_molecules(), CUTOFF))).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_embedding_is_per_atom_and_feeds_the_output():
    model, batch = drawn(), double(batch_of(some_molecules(), CUTOFF))
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 4)
    summed = features.new_zeros(batch.graphs, 1).index_add_(0, batch.graph_of_atom(), model.output(features))
    torch.testing.assert_close(model(batch), summed)


def test_edges_without_their_reverse_are_refused_where_the_rule_gives_both():
    model, batch = drawn(), batch_of(some_molecules(), Graph(cutoff=5.0, max_neighbors=2))
    with pytest.raises(RuntimeError, match="lacks its reverse"):
        model(double(batch))


def test_reduced_precision_is_near():
    model, batch = drawn(dtype=torch.float32), batch_of(some_molecules(), CUTOFF)
    with torch.autocast("cpu", torch.bfloat16):
        energy, forces = energies_and_forces(model, batch)
        forces.square().sum().backward()
    exact, exact_forces = energies_and_forces(model, batch)
    torch.testing.assert_close(energy.float(), exact, rtol=0.1, atol=0.1 * float(exact.detach().abs().max()))
    torch.testing.assert_close(forces, exact_forces, rtol=0.1, atol=0.1 * float(exact_forces.detach().abs().max()))


def test_defaults_are_the_published_sizes():
    model = build_model(Spec(), CUTOFF, targets=2)
    assert (model.embedding.embedding_dim, len(model.layers), model.layers[0].heads) == (256, 8, 8)
    assert len(model.basis.means) == 64
    assert model(batch_of([rattled(some_molecules()[0], 0)], CUTOFF)).shape == (1, 2)
    with pytest.raises(ValueError, match="divisible"):
        Spec(hidden=100, heads=8)
