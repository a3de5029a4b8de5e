"""Dynamics beside their peer: steps a second of ethanol for one and for many replicas, and whether they are ASE's.

Usage: python benchmarks/dynamics.py [--steps 300] [--replicas 64] [--repeats 5] [--threads 1] [--peer-python PYTHON]
The peer is torchmd-net's own calculator under ASE's VelocityVerlet with the same weights, which moves one molecule at
a time. Both take turns. Ours has its watch on. PYTHON has torchmd-net-cpu and ase, and needs no hpc_kit. Prints
Markdown; recorded runs are in benchmarks/results/.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from measure import spread
from predict import GRAPH, HERE, MD17, SEED, answer, times, write_best

from hpc_kit import Calculator, Predictor, machine
from hpc_kit.md.forces import ModelForces
from hpc_kit.md.guard import Guard
from hpc_kit.md.job import Limits
from hpc_kit.md.systems import Systems
from hpc_kit.md.verlet import Verlet
from hpc_kit.models import build_model
from hpc_kit.runs import fingerprint

TIMESTEP = 0.5 * units.fs  # that of the peer's script
WIDE = Limits(bond_A=1e3, fly_away_A=1e3, closer_A=1e3, energy_eV_per_atom=1e9, temperature=1e9)  # weights are random
TARGETS = {1: 1.5, 64: 5.0}


class Timed:
    """Forces, and the seconds spent in them."""

    def __init__(self, forces: ModelForces):
        self.forces, self.seconds = forces, 0.0

    def __call__(self, systems: Systems) -> tuple[np.ndarray, np.ndarray]:
        began = time.perf_counter()
        found = self.forces(systems)
        self.seconds += time.perf_counter() - began
        return found


def start_peer(home: Path, given: argparse.Namespace) -> tuple[subprocess.Popen | None, str]:
    """Write et.pt; return the peer with the same weights, and its versions, where there is one."""
    settings = {
        "model": MD17.model_dump(),
        "graph": GRAPH.model_dump(),
        "seed": SEED,
        "molecule": str(home / "ethanol.extxyz"),
        "state": str(home / "state.npz"),
        "threads": given.threads,
    }
    (home / "settings.json").write_text(json.dumps(settings))
    if not given.peer_python:
        torch.manual_seed(SEED)
        write_best(home / "et.pt", MD17, build_model(MD17, GRAPH).state_dict())
        return None, "not run: --peer-python names a Python that has torchmd-net-cpu"
    argv = [given.peer_python, str(HERE / "peers" / "torchmd_calculator.py"), str(home / "settings.json")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": (home / "peer.log").open("w")}
    worker = subprocess.Popen(argv, text=True, env=os.environ | {"OMP_NUM_THREADS": str(given.threads)}, **pipes)
    versions = ", ".join(answer(worker, home)["versions"])
    with np.load(home / "state.npz") as file:
        write_best(home / "et.pt", MD17, {name: torch.from_numpy(file[name]) for name in file.files})
    return worker, versions


class Moved:
    """Replicas of a molecule that are moved and watched; `recorded`: with operations recorded before it is timed."""

    def __init__(self, predictor: Predictor, atoms: Atoms, replicas: int, recorded: bool):
        self.forces = Timed(ModelForces(predictor, record_after=2 if recorded else None))
        self.verlet = Verlet(Systems.of([atoms], replicas), self.forces, TIMESTEP)
        self.guard = Guard([atoms], WIDE, 300.0, None)
        self.pos = self.verlet.systems.pos
        self.run(3)
        assert self.forces.forces.is_recorded == recorded

    def run(self, steps: int) -> tuple[float, float]:
        """Move from the start anew; return steps a second, and the share of the time outside of the model. Weights as
        drawn would break the molecule in a long run."""
        verlet, systems = self.verlet, self.verlet.systems
        systems.pos, systems.momenta = self.pos.copy(), np.zeros_like(self.pos)
        verlet.energies, verlet.forces = self.forces(systems)
        self.guard.begin(verlet)
        self.forces.seconds, began = 0.0, time.perf_counter()
        for _ in range(steps):
            verlet.step()
            if found := self.guard.check(verlet):
                raise RuntimeError(found)
        took = time.perf_counter() - began
        return steps / took, 1 - self.forces.seconds / took


def speed(home: Path, given: argparse.Namespace) -> None:
    worker, versions = start_peer(home, given)
    atoms = ase.io.read(home / "ethanol.extxyz")
    predictors = {precision: Predictor.load(home / "et.pt", "cpu", precision) for precision in ("fp32", "fp64")}
    sizes = (1, given.replicas)
    kinds = (
        [("fp32", n, True) for n in sizes] + [("fp32", n, False) for n in sizes] + [("fp64", n, True) for n in sizes]
    )
    moved = {(p, n, recorded): Moved(predictors[p], atoms, n, recorded) for p, n, recorded in kinds}
    rates = {kind: [] for kind in [*kinds, "ase", "theirs"]}
    rest = {kind: [] for kind in kinds}
    for _ in range(given.repeats):
        for kind in kinds:
            rate, outside = moved[kind].run(max(given.steps // kind[1], 5))
            rates[kind].append(rate * kind[1] * len(atoms))
            rest[kind].append(outside * 100)
        alone = atoms.copy()
        alone.calc = Calculator(predictors["fp32"])
        dynamics = VelocityVerlet(alone, TIMESTEP)
        dynamics.run(3)
        began = time.perf_counter()
        dynamics.run(given.steps)
        rates["ase"].append(given.steps / (time.perf_counter() - began) * len(atoms))
        expected = alone.get_potential_energy()
        if worker:
            worker.stdin.write(f"{given.steps}\n")
            worker.stdin.flush()
            told = answer(worker, home)
            rates["theirs"].append(given.steps / told["seconds"] * len(atoms))
            off = abs(told["energy"] - expected)
            assert off < 1e-2 * max(1.0, abs(expected)), (told["energy"], expected)
    print(
        "\n| ethanol, TorchMD-NET as for MD17 | steps/s | atom steps/s | times the peer | target | not the model, % |"
    )
    print("|---|---|---|---|---|---|")
    for kind in kinds:
        precision, replicas, recorded = kind
        ratio = times(rates[kind], rates["theirs"]) if worker else ""
        target = TARGETS.get(replicas, "") if precision == "fp32" and recorded else ""
        steps = spread([rate / replicas / len(atoms) for rate in rates[kind]], ",.1f")
        cells = [steps, spread(rates[kind], ",.0f"), ratio, str(target), spread(rest[kind], ".1f")]
        how = "" if recorded else ", not recorded"
        print(f"| ours, {precision}, {replicas} replicas{how} | {' | '.join(cells)} |")
    for name, kind in (("our calculator under ASE, fp32", "ase"), (versions, "theirs")):
        if rates[kind]:
            steps = spread([rate / len(atoms) for rate in rates[kind]], ",.1f")
            ratio = times(rates[kind], rates["theirs"]) if worker else ""
            print(f"| {name} | {steps} | {spread(rates[kind], ',.0f')} | {ratio} | | |")
    if worker:
        worker.stdin.close()
        worker.wait()
    else:
        print(f"| torchmd-net's own calculator | {versions} | | | | |")


def equality(home: Path, steps: int = 1000) -> None:
    """Print how far our positions are from ASE's after `steps` steps of 0.1 fs, in float64."""
    predictor = Predictor.load(home / "et.pt", "cpu", "fp64")
    atoms, systems = ase.io.read(home / "ethanol.extxyz"), None
    systems = Systems.of([atoms], 1)
    systems.draw_momenta(300.0, np.random.default_rng(SEED))
    atoms.set_momenta(systems.momenta)
    atoms.calc = Calculator(predictor)
    verlet = Verlet(systems, ModelForces(predictor), 0.1 * units.fs)
    for _ in range(steps):
        verlet.step()
    VelocityVerlet(atoms, 0.1 * units.fs).run(steps)
    off = np.abs(verlet.systems.pos - atoms.positions).max()
    print(f"\nAfter {steps} steps of 0.1 fs in float64 positions are {off:.1e} Angstrom from ASE's (target 1e-10).")


def order() -> None:
    """Print the deviation of the total energy of a harmonic pair for three steps."""

    def spring(systems: Systems) -> tuple[np.ndarray, np.ndarray]:
        vector = systems.pos[0] - systems.pos[1]
        length = np.linalg.norm(vector)
        push = -20.0 * (length - 0.74) * vector / length
        return np.array([10.0 * (length - 0.74) ** 2]), np.stack([push, -push])

    print("\n| a harmonic pair, step fs | range of the total energy, meV | drift over 1 ps, meV/ps | order |")
    print("|---|---|---|---|")
    before = None
    for timestep in (1.0, 0.5, 0.25):
        pair = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
        pair.set_momenta([[0, 0, 0.3], [0, 0, -0.3]])
        verlet = Verlet(Systems.of([pair], 1), spring, timestep * units.fs)
        total = []
        for _ in range(int(1000 / timestep)):
            verlet.step()
            total.append(verlet.total()[0] * 1000)
        slope = np.polyfit(np.arange(len(total)) * timestep / 1000, total, 1)[0]
        span = np.ptp(total)
        found = "" if before is None else f"{np.log2(before / span):.2f}"
        print(f"| {timestep:g} | {span:.3g} | {slope:.1e} | {found} |")
        before = span


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-python", help="a Python with torchmd-net-cpu and ase")
    given = parser.parse_args()
    machine.keep_freed_memory()
    torch.set_num_threads(given.threads)
    found = fingerprint.collect({}, {"torch": torch.__version__, "torch_threads": given.threads})
    cpu = found["comparable"]["cpu"]["model"]
    print(f"{cpu}, {given.threads} threads, fingerprint {found['sha256'][:12]}; median (range) of {given.repeats}")
    with tempfile.TemporaryDirectory() as home:
        ase.io.write(Path(home) / "ethanol.extxyz", molecule("CH3CH2OH"))
        speed(Path(home), given)
        equality(Path(home))
    order()


if __name__ == "__main__":
    main()
