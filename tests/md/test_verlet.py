"""The integrator: ASE's trajectory, its order, and the temperature that Langevin steps hold."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator as AnyCalculator
from ase.md.verlet import VelocityVerlet
from drawn_models import GRAPH, MODELS, drawn
from some_graphs import rattled

from hpc_kit import Calculator
from hpc_kit.md.forces import RECORDED, CalculatorForces, ModelForces
from hpc_kit.md.systems import Systems
from hpc_kit.md.verlet import Verlet
from hpc_kit.spec.data import Graph
from hpc_kit.spec.models import SchNet

FS = units.fs


class Springs(AnyCalculator):
    """A spring between each pair of atoms, as long as at the start and a little stiffer when it is stretched."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, stiffness: float = 20.0, cubic: float = 3.0):
        super().__init__()
        self.stiffness, self.cubic, self.rest = stiffness, cubic, None

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        vectors = atoms.positions[:, None] - atoms.positions[None]
        length = np.linalg.norm(vectors, axis=2)
        self.rest = length.copy() if self.rest is None else self.rest
        off = length - self.rest
        energy = 0.25 * self.stiffness * np.square(off).sum() + self.cubic / 6 * (off**3).sum()
        pull = self.stiffness * off + self.cubic * off**2
        np.fill_diagonal(length, 1.0)
        self.results = {"energy": energy, "forces": -((pull / length)[:, :, None] * vectors).sum(axis=1)}


def hot(name: str, seed: int, temperature: float = 300.0):
    atoms = molecule(name)
    systems = Systems.of([atoms], 1)
    systems.draw_momenta(temperature, np.random.default_rng(seed))
    atoms.set_momenta(systems.momenta)
    return atoms


def test_positions_are_those_of_ase_after_a_thousand_steps():
    moving = [hot("CH3CH2OH", 0), hot("CH3CH2OH", 1), hot("C6H6", 2)]
    verlet = Verlet(Systems.of(moving, 1), CalculatorForces(Springs), 0.1 * FS)
    start = verlet.systems.pos.copy()
    for _ in range(1000):
        verlet.step()
    ours = np.split(verlet.systems.pos, verlet.systems.ptr[1:-1])
    assert np.abs(verlet.systems.pos - start).max() > 0.1
    for atoms, pos in zip(moving, ours, strict=True):
        atoms.calc = Springs()
        VelocityVerlet(atoms, 0.1 * FS).run(1000)
        np.testing.assert_allclose(pos, atoms.positions, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", [GRAPH, Graph(cutoff=2.0), Graph(cutoff=4.0, max_neighbors=6)], ids=str)
def test_a_model_moves_many_replicas_as_ase_moves_each(rule):
    predictor = drawn(MODELS["torchmd_et"] if rule is GRAPH else MODELS["schnet"], rule, precision="fp64")
    moving = [hot("CH3CH2OH", 0), hot("CH3CH2OH", 1), hot("H2O", 2)]
    verlet = Verlet(Systems.of(moving, 1), ModelForces(predictor), 0.05 * FS)
    steps = 100 if rule is GRAPH else 30
    for _ in range(steps):
        verlet.step()
    for atoms, pos in zip(moving, np.split(verlet.systems.pos, verlet.systems.ptr[1:-1]), strict=True):
        atoms.calc = Calculator(predictor)
        VelocityVerlet(atoms, 0.05 * FS).run(steps)
        np.testing.assert_allclose(pos, atoms.positions, rtol=0, atol=1e-10)


def test_crystals_have_the_forces_of_the_calculator():
    predictor = drawn(MODELS["schnet"], precision="fp64")
    moving = [rattled(bulk("Cu", cubic=True), 0), rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True), 1)]
    energies, forces = ModelForces(predictor)(Systems.of(moving, 1))
    for atoms, energy, part in zip(moving, energies, np.split(forces, [len(moving[0])]), strict=True):
        atoms.calc = Calculator(predictor)
        assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(part, atoms.get_forces(), atol=1e-10)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_operations_give_the_same_numbers(name):
    predictor = drawn(MODELS[name], Graph(cutoff=6.0))
    moved = []
    for after in (3, None):
        forces = ModelForces(predictor, record_after=after)
        verlet = Verlet(Systems.of([hot("CH3CH2OH", 0), hot("H2O", 1)], 2), forces, 0.05 * FS)
        for _ in range(10):
            verlet.step()
        assert forces.is_recorded == (after is not None)
        moved.append((verlet.systems.pos, verlet.energies))
    np.testing.assert_array_equal(moved[0][0], moved[1][0])
    np.testing.assert_array_equal(moved[0][1], moved[1][1])


def test_a_lost_system_takes_no_other_with_it():
    predictor, atoms = drawn(MODELS["schnet"], precision="fp64"), rattled(molecule("CH3CH2OH"), 1)
    far = atoms.copy()
    far.positions[0, 0] = np.inf
    energies, forces = ModelForces(predictor)(Systems.of([far, atoms], 1))
    atoms.calc = Calculator(predictor)
    assert np.isnan(energies[0]) and np.isnan(forces[:9]).all()
    np.testing.assert_allclose(forces[9:], atoms.get_forces(), atol=1e-10)


def test_energy_per_atom_gives_the_forces_of_the_whole():
    spec = SchNet(hidden=8, filters=8, interactions=2, gaussians=10, readout="mean")
    predictor, atoms = drawn(spec, unit="eV/atom", precision="fp64"), rattled(molecule("CH3CH2OH"), 1)
    energies, forces = ModelForces(predictor)(Systems.of([atoms], 2))
    atoms.calc = Calculator(predictor)
    assert energies == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(forces[:9], atoms.get_forces(), atol=1e-10)


def test_the_error_of_the_energy_is_of_second_order_in_the_step():
    """A harmonic pair: half the step, a quarter of the deviation; and no drift."""
    worst, drift = [], []
    for timestep in (1.0, 0.5, 0.25):
        atoms = molecule("H2")
        atoms.set_momenta([[0, 0, 0.3], [0, 0, -0.3]])
        verlet = Verlet(Systems.of([atoms], 1), CalculatorForces(lambda: Springs(cubic=0.0)), timestep * FS)
        total = [verlet.total()[0]]
        for _ in range(int(200 / timestep)):
            verlet.step()
            total.append(verlet.total()[0])
        worst.append(np.ptp(total))
        half = len(total) // 2
        drift.append(abs(np.mean(total[:half]) - np.mean(total[half:])))
    order = np.log2(np.array(worst[:-1]) / worst[1:])
    assert order == pytest.approx(2.0, abs=0.1)
    assert max(drift) < 0.02 * worst[0]


def test_langevin_steps_hold_the_temperature():
    systems = Systems.of([molecule("CH3CH2OH")], 8)
    rng = np.random.default_rng(0)
    systems.draw_momenta(100.0, rng)
    verlet = Verlet(systems, lambda s: (np.zeros(len(s)), -5.0 * (s.pos - systems_start)), 1.0 * FS)
    heat = []
    for step in range(600):
        verlet.langevin(400.0, 50 / (1000 * FS), rng)
        if step > 200:
            heat.append(verlet.systems.kinetic().mean() * 2 / (27 * units.kB))
    assert np.mean(heat) == pytest.approx(400.0, rel=0.05)


systems_start = np.tile(molecule("CH3CH2OH").positions, (8, 1))


def test_momenta_are_drawn_at_rest():
    systems = Systems.of([molecule("C6H6"), molecule("CH3CH2OH"), molecule("CO2")], 50)
    systems.draw_momenta(500.0, np.random.default_rng(0))
    assert np.abs(systems.sums(systems.momenta)).max() < 1e-10
    assert np.abs(systems.angular_momentum()).max() < 1e-8
    assert systems.temperature()[:100].mean() == pytest.approx(500.0, rel=0.05)
