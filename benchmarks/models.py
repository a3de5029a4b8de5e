"""The models beside their peers: seconds an epoch, memory, and how much of the machine's product rate each reaches.

Usage: python benchmarks/models.py [--only cgcnn schnet] [--peer-python alignn=/path/to/python] [--cores 0 1]
Both sides train on the same graphs, with the same batch size, AdamW, fp32, on the same cores, an epoch each in turn.
With `memory kept`, malloc does not give freed memory back to the kernel, as hpc_kit's engine has it (and as
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ do for any program). A peer whose data or packages are not there is
listed with the reason. Prints Markdown tables; recorded runs are in benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import product_rate, spread

from hpc_kit.data.batches import read_with_edges
from hpc_kit.data.features import element_table
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import Arrays
from hpc_kit.runs import fingerprint
from hpc_kit.spec import models as specs
from hpc_kit.spec.data import Graph
from hpc_kit.spec.shipped import shipped_folder

HERE = Path(__file__).resolve().parent
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
MOLECULES = Graph(cutoff=5.0)
MD17 = specs.TorchMDET(hidden=128, layers=6, basis=32)  # as published for MD17


@dataclass(frozen=True)
class Pair:
    spec: specs.Model
    peer: str
    data: str
    graph: Graph
    graphs: int
    batch: int
    goal: float
    forces: bool = False


PAIRS = [
    Pair(specs.ALIGNN(), "dgl_alignn", "jarvis", Graph(rule="alignn", cutoff=8.0, max_neighbors=12), 50, 16, 3.0),
    Pair(specs.SchNet(), "pyg_schnet", "qm9", MOLECULES, 2000, 128, 2.0),
    Pair(specs.CGCNN(), "padded_cgcnn", "core_mof", Graph(cutoff=8.0, max_neighbors=12), 256, 64, 3.0),
    Pair(MD17, "torchmd_net", "ethanol", MOLECULES, 480, 32, 1.5, forces=True),
    Pair(specs.PhysNet(), "pyg_physnet", "qm9", MOLECULES, 2000, 128, 1.5),
    Pair(specs.MPNN(), "pyg_mpnn", "qm9", MOLECULES, 512, 128, 1.5),
]


class NotRun(Exception):
    """Why a pair cannot be run here."""


class Worker:
    """A process that trains when asked to."""

    def __init__(self, python: str, settings: dict, folder: Path, cores: int):
        self.log = folder / f"{settings['role']}.log"
        file = folder / f"{settings['role']}.json"
        file.write_text(json.dumps(settings))
        peer_kept = KEEP if settings["keep"] and settings["role"] != "ours" else {}
        self.process = subprocess.Popen(
            [python, str(HERE / "model_worker.py"), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(cores)} | peer_kept,
        )
        self.versions = self._answer()["versions"]

    def ask(self, command: str) -> dict:
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            said = self.log.read_text().strip().splitlines()
            raise NotRun(said[-1] if said else f"its process ended with {self.process.wait()}")
        return json.loads(line)


def prepare(pair: Pair, given: argparse.Namespace, home: Path) -> tuple[Path, str]:
    """Return a shard set with the pair's graphs and the target to train on."""
    if pair.data == "qm9":
        return given.qm9 or shipped_folder("embedded") / "qm9_sample", "zpve"
    graph, out = pair.graph, home / pair.data
    table = [f"--option={key}" for key in ("csv=id_prop.csv", "header=false", "columns=property")]
    some = ["--limit", str(int(1.05 * pair.graphs) + 4)]  # a few are rejected
    source, path, options, target = {
        "jarvis": ("files", given.data / "jarvis_sample", table, "property"),
        "ethanol": ("md17", given.data / "rmd17_ethanol_train_01.npz", [], "energy"),
        "core_mof": ("core_mof", None, some, "density"),
    }[pair.data]
    if path and not path.exists():
        raise NotRun(f"{path} is not there")
    argv = [sys.executable, "-m", "hpc_kit", "data", "prepare", source, f"--out={out}", *options]
    argv += [f"--cutoff={graph.cutoff}", f"--rule={graph.rule}"]
    argv += [f"--max-neighbors={graph.max_neighbors}"] if graph.max_neighbors else []
    argv += [f"--path={path}"] if path else []
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1])
    return out, target


def flat(arrays: Arrays, target: str, count: int) -> tuple[dict[str, np.ndarray], float, float]:
    """Return the first `count` graphs as GraphBatch's arrays, targets standardised, with their mean and deviation."""
    atoms, edges = arrays.atom_ptr[count], arrays.edge_ptr[count]
    first = np.repeat(arrays.atom_ptr[:count], np.diff(arrays.edge_ptr[: count + 1]))
    targets = arrays.targets[target][:count]
    mean, std = float(targets.mean()), float(targets.std()) or 1.0
    found = {
        "z": arrays.z[:atoms].astype(np.int64),
        "pos": arrays.pos[:atoms],
        "cell": arrays.cell[:count],
        "src": first + arrays.src[:edges],
        "dst": first + arrays.dst[:edges],
        "atom_ptr": arrays.atom_ptr[: count + 1],
        "edge_ptr": arrays.edge_ptr[: count + 1],
        "targets": ((targets - mean) / std).astype(np.float32)[:, None],
        "element_table": np.nan_to_num(element_table()),
    }
    if arrays.shift is not None and arrays.pbc.any():
        found["shift"] = arrays.shift[:edges]
    if arrays.forces is not None:
        found["forces"] = arrays.forces[:atoms] / np.float32(std)
    return found, mean, std


def settings_of(pair: Pair, given: argparse.Namespace, home: Path) -> tuple[dict, str]:
    """Prepare the pair's graphs; return what both workers are told, and the graphs in words."""
    folder, target = prepare(pair, given, home)
    arrays = read_with_edges(folder, read_manifest(folder), pair.graph, targets=[target])
    count = min(pair.graphs, given.graphs, len(arrays.ids))
    content, mean, std = flat(arrays, target, count)
    np.savez(home / "graphs.npz", **content)
    what = {"model": pair.spec.model_dump(), "graph": pair.graph.model_dump(), "forces": pair.forces}
    where = {"arrays": str(home / "graphs.npz"), "folder": str(folder), "target": target, "graphs": count}
    settings = what | where | {"batch_size": pair.batch, "seed": 0, "mean": mean, "std": std}
    words = f"{count} {pair.data}, {len(content['z']):,} atoms, {len(content['src']):,} edges, batch {pair.batch}"
    return settings, words


def take_turns(roles: dict[str, str], settings: dict, home: Path, given: argparse.Namespace) -> dict[str, dict]:
    """Train `repeats` epochs of each role (name: its interpreter), after one that is not counted; return for each its
    epochs' seconds, first epoch's seconds, most memory, operations an epoch and versions."""
    workers, found = {}, {}
    try:
        for role, python in roles.items():
            workers[role] = worker = Worker(python, settings | {"role": role}, home, len(given.cores))
            found[role] = {"first": worker.ask("epoch")["epoch_s"], "times": [], "versions": worker.versions}
        for _ in range(given.repeats):  # taking turns, so that a drift of the machine's speed hits both
            for role, worker in workers.items():
                found[role]["times"].append(worker.ask("epoch")["epoch_s"])
        for role, worker in workers.items():
            found[role] |= worker.ask("peak") | worker.ask("flops")
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    return found


def lines_of(pair: Pair, given: argparse.Namespace, home: Path, rate: float) -> tuple[list[str], set[str]]:
    """Measure a pair; return its lines of the table and the versions at work."""
    if not (HERE / "peers" / f"{pair.peer}.py").exists():
        raise NotRun(f"benchmarks/peers/{pair.peer}.py is not there")
    settings, words = settings_of(pair, given, home)
    python = dict(text.split("=", 1) for text in given.peer_python).get(pair.spec.name, sys.executable)
    lines, versions = [], set()
    for keep, compiled in [(False, False), (True, False)] + [(True, True)] * given.compile:
        roles = {"ours": sys.executable, pair.peer: python}
        found = take_turns(roles, settings | {"keep": keep, "compile": compiled}, home, given)
        mine, other = found.values()
        ratios = [b / a for a, b in zip(mine["times"], other["times"], strict=True)]
        shares = [100 * side["flops"] / statistics.median(side["times"]) / rate for side in (mine, other)]
        compiling = f", compiled in {mine['first'] - statistics.median(mine['times']):.0f} s" if compiled else ""
        name = f"{pair.spec.name}{compiling} | {pair.peer} | {words}"
        lines.append(
            f"| {name} | {'yes' if keep else 'no'} | {spread(mine['times'], '.2f')} | {spread(other['times'], '.2f')}"
            f" | {spread(ratios, '.2f')} | {pair.goal:g} | {mine['peak_mb']:,.0f} / {other['peak_mb']:,.0f}"
            f" | {shares[0]:.0f} / {shares[1]:.0f} |"
        )
        versions |= {*mine["versions"]}
        versions |= {f"{name} ({pair.peer})" for name in other["versions"] if name not in mine["versions"]}
    return lines, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[pair.spec.name for pair in PAIRS])
    parser.add_argument("--peer-python", nargs="+", default=[], metavar="MODEL=PYTHON")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--qm9", type=Path, help="a shard set of QM9 with its edges at 5 Angstrom [the sample]")
    parser.add_argument("--cores", nargs="+", type=int, default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--graphs", type=int, default=10**9, help="at most so many of each data set")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile as well")
    given = parser.parse_args()
    os.sched_setaffinity(0, given.cores)
    torch.set_num_threads(len(given.cores))
    machine, rate = fingerprint.collect({}, {"torch": torch.__version__}), product_rate()
    cpu, cores = machine["comparable"]["cpu"]["model"], len(given.cores)
    print(f"{cpu}, {cores} cores, fingerprint {machine['sha256'][:12]}; fp32 products {rate / 1e9:.0f} GFLOP/s;")
    print(f"median (range) of {given.repeats} epochs, ratios of neighbouring ones\n")
    print(
        "| model | peer | graphs | memory kept | ours, s/epoch | peer, s/epoch | peer / ours | target"
        " | peak MB, ours / peer | % of product rate, ours / peer |\n" + "|---" * 10 + "|"
    )
    versions, left_out = set(), []
    for pair in PAIRS:
        if pair.spec.name not in (given.only or [pair.spec.name]):
            continue
        try:
            with tempfile.TemporaryDirectory() as home:
                lines, used = lines_of(pair, given, Path(home), rate)
        except NotRun as reason:
            left_out.append(f"- {pair.spec.name} beside {pair.peer}: {reason}")
            continue
        print("\n".join(lines), flush=True)
        versions |= used
    print(f"\nVersions: {', '.join(sorted(versions))}")
    if left_out:
        print("\nNot run:\n" + "\n".join(left_out))


main()
