"""The ASE calculator: forces and stress are derivatives of its energy, and its neighbour list never misses a pair."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from conftest import run_small
from drawn_models import GRAPH, MODELS, drawn
from some_graphs import rattled, some_crystals

from hpc_kit import Calculator
from hpc_kit.data.graphs import build_graph
from hpc_kit.predict.neighbours import Neighbours
from hpc_kit.predict.predictor import Predictor
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import CGCNN, SchNet


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("crystal", [False, True], ids=["molecule", "crystal"])
def test_forces_and_stress_are_the_derivatives_of_the_energy(name, crystal):
    atoms = some_crystals()[1] if crystal else rattled(molecule("CH3CH2OH"), 1)
    atoms.calc = Calculator(drawn(MODELS[name], precision="fp64"))
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-5
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6 * np.abs(forces).max())
    if crystal:
        stress = atoms.get_stress()
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        assert np.abs(stress).max() > 1e-6
        np.testing.assert_allclose(stress, numerical, atol=1e-5 * np.abs(stress).max())


def test_energy_per_atom_counts_the_atoms():
    atoms = some_crystals()[3]
    spec = SchNet(hidden=8, filters=8, interactions=2, gaussians=10, readout="mean")
    atoms.calc = Calculator(drawn(spec, unit="eV/atom", precision="fp64"))
    forces, stress = atoms.get_forces(), atoms.get_stress()
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6 * np.abs(forces).max())
    assert stress == pytest.approx(calculate_numerical_stress(atoms, eps=1e-5), abs=1e-5 * np.abs(stress).max())


def test_calculator_says_what_the_predictor_says(energy_run):
    atoms = rattled(molecule("CH3CH2OH"), 3)
    found = Predictor.load(energy_run.path).predict(atoms)
    atoms.calc = Calculator(energy_run.path)
    assert atoms.get_potential_energy() == pytest.approx(found["energy"][0], rel=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-5)
    assert atoms.calc.results["energy_std"] == pytest.approx(found.std[0, 0], rel=1e-3)
    np.testing.assert_allclose(atoms.calc.results["forces_std"], found.forces_std, atol=1e-5)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_total_energy_is_kept_while_the_list_is_used_again():
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(drawn(MODELS["schnet"], precision="fp64"))
    spread = np.sqrt(300 * units.kB * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    start = atoms.get_total_energy()
    dynamics = VelocityVerlet(atoms, 0.25 * units.fs)
    kinetic = atoms.get_kinetic_energy()
    dynamics.run(100)
    assert abs(atoms.get_total_energy() - start) < 1e-3 * kinetic
    assert 1 <= atoms.calc.neighbours.built < 20


GRAPHS = {"radius": GRAPH, "nearest": Graph(cutoff=4.0, max_neighbors=6)}


@pytest.mark.parametrize("rule", GRAPHS)
def test_list_gives_the_graph_of_each_step_of_a_walk(rule):
    rng = np.random.default_rng(0)
    crystal, built = some_crystals()[4], 0
    neighbours = Neighbours(GRAPHS[rule], 0.6)
    for step in range(60):
        crystal.positions += rng.normal(0, 0.03, crystal.positions.shape)
        if step % 20 == 10:
            crystal.set_cell(crystal.cell * (1 + rng.normal(0, 0.01, (3, 3))), scale_atoms=True)
        if step == 35:
            crystal.wrap()
        z, pos, cell, pbc = crystal.numbers, crystal.positions, np.array(crystal.cell), crystal.pbc
        for ours, fresh in zip(
            neighbours.edges(z, pos, cell, pbc), build_graph(pos, cell, pbc, GRAPHS[rule]), strict=True
        ):
            np.testing.assert_array_equal(ours, fresh)
        built = neighbours.built
    assert 3 < built < 30


def test_list_is_made_anew_only_when_atoms_have_moved_half_the_skin():
    atoms, neighbours = molecule("C6H6"), Neighbours(GRAPH, 0.5)

    def look():
        neighbours.edges(atoms.numbers, atoms.positions, np.zeros((3, 3)), atoms.pbc)
        return neighbours.built

    assert look() == look() == 1
    atoms.positions[0, 2] += 0.24
    assert look() == 1
    atoms.positions[0, 2] += 0.02
    assert look() == 2
    atoms.numbers[0] = 7
    assert look() == 3


def test_what_the_model_is_not_for_is_refused(tmp_path):
    calculator = Calculator(drawn(MODELS["schnet"]))
    for atoms, message in (
        (Atoms("XeH", [[0, 0, 0], [0, 0, 1.7]]), "HXe: holds Xe, which the training never saw; allow_unseen=True"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.1]]), "H2: atoms [01] and [01] are 0.1 Angstrom apart"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "a position is NaN or infinite"),
        (Atoms(), "no atoms"),
    ):
        atoms.calc = calculator
        with pytest.raises(InputError, match=message):
            atoms.get_potential_energy()
    with pytest.raises(InputError, match="none of it is an energy in eV or eV/atom"):
        Calculator(drawn(MODELS["schnet"], unit="debye"))
    with pytest.raises(InputError, match="target 'gap' is no energy of this model; allowed: energy"):
        Calculator(drawn(MODELS["schnet"]), target="gap")
    with pytest.raises(InputError, match="skin: must be a distance"):
        Calculator(drawn(MODELS["schnet"]), skin=-1)
    with pytest.raises(InputError, match="precision 'fp16': "):
        Calculator(tmp_path, precision="fp16")
    with pytest.warns(UserWarning, match="model cgcnn is not meant for forces"):
        Calculator(drawn(CGCNN(atom_features=8, hidden=8)))


def test_one_of_several_energies_must_be_named(tmp_path):
    task = run_small(tmp_path / "run", "data.target=[u0, gap]", "train.epochs=1")
    with pytest.raises(InputError, match="several targets are in eV: say which is the energy, target=...; u0, gap"):
        Calculator(task.path)
    atoms = rattled(molecule("CH3CH2OH"), 1)
    atoms.calc = Calculator(task.path, target="gap", precision="fp64")
    expected = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-5 * np.abs(expected).max())
