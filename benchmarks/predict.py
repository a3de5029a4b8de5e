"""Predictions beside their peers: structures a second from files and shards, one structure from the shell, steps a
second of the calculator.

Usage: python benchmarks/predict.py [--molecules 4000] [--crystals 400] [--repeats 5] [--peer-python PYTHON]
Ours and torch_geometric's SchNet have the same weights and see the same structures, in turn in one process. Its side
reads with ASE, makes graphs with ASE's neighbour list (its own radius graph knows no cells), and both happen in the
workers of its DataLoader; in place of shards it has a file of graphs made before (torch.save), as its data sets keep
them. PYTHON has torchmd-net-cpu and ase, and needs no hpc_kit. Prints Markdown; recorded runs are in
benchmarks/results/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from measure import machine_line, spread

from hpc_kit import Calculator, Predictor, machine
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.sources import open_source
from hpc_kit.data.sources.pieces import read_piece
from hpc_kit.models import build_model, from_upstream
from hpc_kit.spec import models as specs
from hpc_kit.spec.data import Graph
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.train.checkpoint import save_checkpoint

HERE = Path(__file__).resolve().parent
GRAPH = Graph(cutoff=5.0)
SCHNET = specs.SchNet()
MD17 = specs.TorchMDET(hidden=128, layers=6, basis=32)  # as published for MD17
BATCH = 128
SEED = 0
LOOP = 200  # structures of the plain loop, which is slow


def write_best(path: Path, spec: specs.Model, state: dict[str, torch.Tensor]) -> None:
    """Write a best.pt with these weights, as a training would."""
    model = build_model(spec, GRAPH)
    if set(state) != set(model.state_dict()):
        state = from_upstream(spec, state)
    model.load_state_dict(state)
    content = {
        "model": model.state_dict(),
        "scale": {"mean": [0.0], "std": [1.0], "per_atom": False, "atom_references": {}},
        "spec": spec.model_dump(),
        "graph": GRAPH.model_dump(),
        "units": {"energy": "eV"},
        "forces": False,
        "elements": list(range(1, 100)),
        "periodic": True,
        "dataset_sha256": "",
        "hpc_kit": "benchmark",
        "epoch": 0,
        "score": 0.0,
    }
    save_checkpoint(path, content)


def molecules(count: int) -> list[Atoms]:
    """Return molecules of QM9, those of the shard set that ships with the package over and over."""
    from hpc_kit.data.manifest import read_manifest
    from hpc_kit.data.shards import read_shard_set

    folder = shipped_folder("embedded") / "qm9_sample"
    arrays = read_shard_set(folder, read_manifest(folder))
    ptr = arrays.atom_ptr
    every = [Atoms(arrays.z[a:b], arrays.pos[a:b]) for a, b in zip(ptr[:-1], ptr[1:], strict=True)]
    return [every[i % len(every)] for i in range(count)]


def crystals(folder: Path, count: int) -> list[Atoms]:
    """Return the crystals in `folder` over and over, their atoms moved a little."""
    records = [
        raw
        for _, raw in open_source(
            "files", folder, {"csv": "id_prop.csv", "header": "false", "columns": "p"}
        ).records()
    ]
    every = [read_piece(kind, content) for kind, content, _ in records]
    random, found = np.random.default_rng(SEED), []
    for i in range(count):
        atoms = every[i % len(every)].copy()
        atoms.positions += random.normal(0, 0.01, atoms.positions.shape)
        found.append(atoms)
    return found


class Peer(torch.utils.data.Dataset):
    """Structures as torch_geometric's Data, made when they are asked for: of atoms at hand or of files."""

    def __init__(self, items: list[Atoms] | list[Path]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int):
        from torch_geometric.data import Data

        item = self.items[place]
        atoms = ase.io.read(item) if isinstance(item, Path) else item
        dst, src, shift = neighbor_list("ijS", atoms, GRAPH.cutoff)
        return Data(
            z=torch.from_numpy(atoms.numbers.astype(np.int64)),
            pos=torch.from_numpy(atoms.positions.astype(np.float32)),
            edge_index=torch.from_numpy(np.stack([src, dst])),
            offset=torch.from_numpy((shift @ atoms.cell).astype(np.float32)),
        )


def of_peer(model: torch.nn.Module, data, workers: int) -> np.ndarray:
    """Return what torch_geometric's model predicts for `data`, through its loader."""
    from torch_geometric.loader import DataLoader

    loader = DataLoader(data, BATCH, num_workers=min(workers, len(data) // BATCH + 1))
    with torch.no_grad():
        return torch.cat([model(batch) for batch in loader]).numpy().ravel()


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    values = work()
    return len(values) / (time.perf_counter() - began), values


def throughput(home: Path, given: argparse.Namespace) -> None:
    sys.path.insert(0, str(HERE / "peers"))
    from pyg_schnet import Precomputed

    torch.manual_seed(SEED)
    peer = Precomputed(SCHNET.model_dump(), GRAPH.cutoff, own_edges=False).eval()
    write_best(home / "schnet.pt", SCHNET, peer.model.state_dict())
    predictor, cores = Predictor.load(home / "schnet.pt", "cpu"), machine.usable_cores()

    ase.io.write(home / "m.extxyz", molecules(given.molecules))
    (home / "cif").mkdir()
    for i, atoms in enumerate(crystals(given.data / "jarvis_sample", given.crystals)):
        ase.io.write(home / "cif" / f"{i:06d}.cif", atoms)
    prepare(open_source("files", home / "m.extxyz", {}), home / "set", Settings(GRAPH), workers=cores)
    torch.save([Peer([a])[0] for a in ase.io.iread(home / "m.extxyz")], home / "graphs.pt")

    cifs = sorted((home / "cif").iterdir())
    peers: dict[str, Callable[[], np.ndarray]] = {
        "m.extxyz": lambda: of_peer(peer, Peer(ase.io.read(home / "m.extxyz", ":")), cores),
        "cif": lambda: of_peer(peer, Peer(cifs), cores),
        "set": lambda: of_peer(peer, torch.load(home / "graphs.pt", weights_only=False), 0),
    }
    names = {"m.extxyz": "one extxyz file of molecules", "cif": "CIF files of crystals", "set": "shards of molecules"}
    print(f"\nSchNet of the default size, {given.molecules} molecules of QM9, {given.crystals} crystals of JARVIS\n")
    print("| from | ours, structures/s | torch_geometric | times | target | plain loop over ASE Atoms | times |")
    print("|---|---|---|---|---|---|---|")
    for name, theirs in peers.items():
        rates: dict[str, list[float]] = {"ours": [], "theirs": [], "loop": []}
        for _ in range(given.repeats):
            rate, values = timed(lambda name=name: predictor.predict(home / name, workers=cores)["energy"])
            rates["ours"].append(rate)
            rate, expected = timed(theirs)
            rates["theirs"].append(rate)
            np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
            if name != "set":
                rates["loop"].append(timed(lambda name=name: loop(home / name, predictor))[0])
        cells = [
            spread(rates["ours"], ",.0f"),
            spread(rates["theirs"], ",.0f"),
            times(rates["ours"], rates["theirs"]),
            "5",
        ]
        cells += [spread(rates["loop"], ",.1f"), times(rates["ours"], rates["loop"])] if rates["loop"] else ["", ""]
        print(f"| {names[name]} | {' | '.join(cells)} |")
    print(f"\nBoth sides read with {cores} processes; torch has {torch.get_num_threads()} threads.")


def loop(path: Path, predictor: Predictor) -> np.ndarray:
    """Read structures with ASE and ask for their energies one by one."""
    files: Iterable = sorted(path.iterdir())[:LOOP] if path.is_dir() else [path]
    every = (atoms for file in files for atoms in ase.io.iread(file, ":"))
    calculator, found = Calculator(predictor), []
    for atoms in every:
        atoms.calc = calculator
        found.append(atoms.get_potential_energy())
        if len(found) == LOOP:
            break
    return np.array(found)


def times(ours: list[float], theirs: list[float]) -> str:
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], ".1f")


def from_the_shell(home: Path, repeats: int) -> None:
    ase.io.write(home / "one.extxyz", molecule("CH3CH2OH"))
    command = [
        "hpc_kit",
        "predict",
        str(home / "schnet.pt"),
        str(home / "one.extxyz"),
        "--out",
        str(home / "one.csv"),
    ]
    asked = {
        "hpc_kit predict, one structure": ["-m", *command, "--force"],
        "of that: python with torch alone": ["-c", "import torch"],
        "python with torch_geometric and ase": ["-c", "import torch_geometric.nn.models, ase.io"],
    }
    print("\n| from the shell | wall s | target |\n|---|---|---|")
    walls: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(repeats + 1):
        for name, arguments in asked.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            walls[name].append(time.perf_counter() - began)
    for place, (name, seconds) in enumerate(walls.items()):
        print(f"| {name} | {spread(seconds[1:], '.2f')} | {'4' if place == 0 else ''} |")  # the first fills caches


def calculator_steps(home: Path, given: argparse.Namespace) -> None:
    print("\n| ethanol, TorchMD-NET as for MD17, fp32, ASE's VelocityVerlet | steps/s | times |\n|---|---|---|")
    torch.manual_seed(SEED)
    ase.io.write(home / "ethanol.extxyz", molecule("CH3CH2OH"))
    settings = {
        "model": MD17.model_dump(),
        "graph": GRAPH.model_dump(),
        "seed": SEED,
        "molecule": str(home / "ethanol.extxyz"),
        "state": str(home / "state.npz"),
        "threads": torch.get_num_threads(),
    }
    (home / "settings.json").write_text(json.dumps(settings))
    worker = None
    if given.peer_python:
        argv = [given.peer_python, str(HERE / "peers" / "torchmd_calculator.py"), str(home / "settings.json")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": (home / "peer.log").open("w")}
        env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        worker = subprocess.Popen(argv, text=True, env=env, **pipes)
        versions = answer(worker, home)["versions"]
        with np.load(home / "state.npz") as file:
            write_best(home / "et.pt", MD17, {name: torch.from_numpy(file[name]) for name in file.files})
    else:
        model = build_model(MD17, GRAPH)
        write_best(home / "et.pt", MD17, model.state_dict())
    kinds = {"ours": ("fp32", 0.5), "ours, no skin": ("fp32", 0.0), "ours, fp64": ("fp64", 0.5)}
    rates: dict[str, list[float]] = {name: [] for name in [*kinds, "theirs"]}
    calculators = {
        name: Calculator(home / "et.pt", "cpu", precision, skin) for name, (precision, skin) in kinds.items()
    }
    for _ in range(given.repeats):
        energies = {}
        for name, calculator in calculators.items():
            atoms = ase.io.read(home / "ethanol.extxyz")
            atoms.calc = calculator
            dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
            dynamics.run(3)
            began = time.perf_counter()
            dynamics.run(given.steps)
            rates[name].append(given.steps / (time.perf_counter() - began))
            energies[name] = atoms.get_potential_energy()
        if worker:
            worker.stdin.write(f"{given.steps}\n")
            worker.stdin.flush()
            told = answer(worker, home)
            rates["theirs"].append(given.steps / told["seconds"])
            assert abs(told["energy"] - energies["ours"]) < 1e-2 * max(1.0, abs(told["energy"])), (told, energies)
    for name in kinds:
        ratio = times(rates[name], rates["theirs"]) if worker else ""
        print(f"| {name} | {spread(rates[name], ',.0f')} | {ratio} |")
    if worker:
        print(f"| {', '.join(versions)} | {spread(rates['theirs'], ',.0f')} | 1 |")
        worker.stdin.close()
        worker.wait()
    else:
        print("| torchmd-net's own calculator | not run: --peer-python names a Python that has torchmd-net-cpu | |")


def answer(worker: subprocess.Popen, home: Path) -> dict:
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"the peer ended with {worker.wait()}: {(home / 'peer.log').read_text().strip().splitlines()[-1:]}")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=4000)
    parser.add_argument("--crystals", type=int, default=400)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", help="a Python with torchmd-net-cpu and ase")
    parser.add_argument(
        "--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="has jarvis_sample/"
    )
    given = parser.parse_args()
    machine.keep_freed_memory()
    print(f"{machine_line(torch=torch.__version__)}; median (range) of {given.repeats}")
    with tempfile.TemporaryDirectory() as home:
        throughput(Path(home), given)
        from_the_shell(Path(home), given.repeats)
        calculator_steps(Path(home), given)


if __name__ == "__main__":  # worker processes import this file
    main()
