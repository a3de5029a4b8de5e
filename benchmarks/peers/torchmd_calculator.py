"""torchmd-net's own calculator (torchmdnet.calculators.External) under ASE's dynamics of one molecule.

Usage: torchmd_calculator.py SETTINGS.json, with `model`, `graph`, `seed`, `molecule` (a file that ASE reads) and
`state`, where the weights are left for the other side (.npz). A line on standard input, a number of steps, is
answered by a line of JSON: how long they took and the potential energy after them. Needs no hpc_kit.
"""

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from torchmd_net import model_of
from torchmdnet.calculators import External


class Torchmd(Calculator):
    """The package's calculator as ASE wants one."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, model: torch.nn.Module, numbers: np.ndarray):
        super().__init__()
        self.external = External(model, torch.from_numpy(numbers.astype(np.int64)).unsqueeze(0))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        pos = torch.from_numpy(atoms.positions).float().requires_grad_()
        energy, forces = self.external.calculate(pos)
        self.results = {"energy": float(energy), "forces": forces[0].numpy().astype(float)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # what libraries print must not come between the answers
    os.dup2(2, 1)
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    model = model_of(settings, with_forces=True)
    np.savez(settings["state"], **{name: value.numpy() for name, value in model.state_dict().items()})
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torchmd-net-cpu", "torch", "ase")]
    print(json.dumps({"versions": versions}), file=answers)
    for line in sys.stdin:
        atoms = ase.io.read(settings["molecule"])
        atoms.calc = Torchmd(model, atoms.numbers)
        dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
        dynamics.run(3)
        began = time.perf_counter()
        dynamics.run(int(line))
        answer = {"seconds": time.perf_counter() - began, "energy": atoms.get_potential_energy()}
        print(json.dumps(answer), file=answers)


main()
