"""What the tests share: small jobs on the embedded molecules, run through the real command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpc_kit.cli import main
from hpc_kit.data.manifest import Target
from hpc_kit.data.structures import Structure
from hpc_kit.plan import make_plan
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.task import run_task

pytest_plugins = ["testbed"]

# Models and batches are small here: threads would wait for each other longer than they compute, most of all beside
# other work. For this process (torch is loaded later) and what it starts; a task sets its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# 120 molecules and a narrow model: an epoch takes a fraction of a second.
SMALL = [
    "data.split={train: 0.03, val: 0.01, test: 0.01, seed: 0}",
    "model={name: schnet, hidden: 16, filters: 16, interactions: 2, gaussians: 10}",
    "train={epochs: 4, batch_size: 16, learning_rate: 1e-3}",
]

# A task that counts to 50 in five seconds, and loads no torch.
PROBE = ["probe={steps: 50, step_s: 0.1}", "resources.ranks_per_node=1"]


def set_options(overrides: list[str]) -> list[str]:
    return [part for text in overrides for part in ("--set", text)]


def hpc_kit(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command to its end and return its output."""
    return subprocess.run(
        [sys.executable, "-m", "hpc_kit", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def start_hpc_kit(*arguments: str | Path, cwd: Path) -> subprocess.Popen:
    """Start a command and return its process, in a session of its own, as a shell in another terminal would."""
    with (cwd / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hpc_kit", *map(str, arguments)],
            cwd=cwd,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def ledger_states(run: Path) -> list[str]:
    return [json.loads(line)["state"] for line in (run / "ledger.jsonl").read_text().splitlines()]


def small_run(path: Path, *overrides: str) -> RunDir:
    """Make a run directory of the quickstart job at a small size, without starting anything."""
    file = load_job("quickstart", [*SMALL, *overrides])
    return create_run(path, make_plan(file), file.job, load_site("local"))


def probe_run(path: Path, *overrides: str) -> RunDir:
    """Make a run directory of a probe, a task that counts and loads no torch, without starting anything."""
    file = load_job("probe", [*PROBE, *overrides])
    return create_run(path, make_plan(file), file.job, load_site("local"))


def run_small(path: Path, *overrides: str) -> TaskDir:
    """Make such a run of one task and run that here, to its end."""
    run = small_run(path, "seeds=[0]", *overrides)
    task = run.task(run.read_plan().tasks[0].id)
    run_task(task.path)
    return task


class ListSource:
    """Structures at hand, as a source."""

    name = "list"
    origin: dict = {"dataset": "made for a test"}
    splits: dict = {}

    def __init__(self, structures: list[Structure], **targets: str):
        self.structures = structures
        self.targets = {name: Target(unit=unit, description=name) for name, unit in targets.items()}

    def records(self):
        return ((structure.id, structure) for structure in self.structures)

    def convert(self, id, raw):
        return raw


# What is made once for several tests, and takes long or is there only once: its name, and that of the tests' group.
SHARED = {"slurm_cluster": "testbed", "apptainer": "testbed", "installed": "installed", "submitted": "submitted"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes of pytest (-n), one has all tests of a group."""
    for item in items:
        for name in SHARED.keys() & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(SHARED[name]))


@pytest.fixture(scope="session")
def energy_run(tmp_path_factory) -> RunDir:
    """Two seeds of a small SchNet, trained on energies and forces (by ASE's EMT) of molecules and of copper."""
    from ase.build import bulk, molecule
    from ase.calculators.emt import EMT
    from some_graphs import rattled

    from hpc_kit.data.prepare import Settings, prepare
    from hpc_kit.spec.data import Graph

    folder, structures = tmp_path_factory.mktemp("emt"), []
    for number in range(24):
        base = bulk("Cu", cubic=True) if number % 3 == 0 else molecule(("H2O", "CH3CH2OH", "NH3")[number % 3])
        atoms = rattled(base, number)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        of = {"cell": np.array(atoms.cell), "pbc": np.array(atoms.pbc), "forces": forces}
        structures.append(Structure(f"s{number}", atoms.numbers, atoms.positions, {"energy": energy}, **of))
    prepare(ListSource(structures, energy="eV"), folder / "set", Settings(Graph(cutoff=4.0)), workers=0)
    data = f"data={{source: shards, path: {folder}/set, target: energy, forces: true, graph: {{cutoff: 4.0}}}}"
    run = small_run(folder / "run", data, "seeds=[0, 1]", "train.epochs=2", "train.atom_references=fit")
    for task in run.read_plan().tasks:
        run_task(run.task(task.id).path)
    return run


@pytest.fixture(autouse=True)
def own_signals():
    """Give back what a training that was asked to end leaves deaf."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """Runs a command as hpc_kit() does, but in this process: for commands that read, show or refuse."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        argv = ["hpc_kit", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(argv, ended.value.code or 0, *capfd.readouterr())

    return call


@pytest.fixture
def small_task(tmp_path: Path) -> TaskDir:
    """One task directory, not yet run."""
    run = small_run(tmp_path / "run", "seeds=[0]")
    return run.task(run.read_plan().tasks[0].id)
