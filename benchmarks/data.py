"""The data plane beside its peers: preparing QM9, batches in memory and from cold shards, memory of extra ranks.

Usage: pip install --no-deps qm9pack==1.0.3; python benchmarks/data.py [--limit N] [--repeats 5]
Prints Markdown tables. Each ratio is of two things measured in turn in one process. Neighbour lists have a
benchmark of their own, graphs.py. Recorded runs are in benchmarks/results/.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import torch
from measure import machine_line, spread, wall_and_memory

from hpc_kit.data.loader import Dataset
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.sampling import Limits
from hpc_kit.spec.data import Graph

GRAPH = Graph(cutoff=5.0)
BATCH = 128


def in_new_process(*arguments: object) -> str:
    """Run one of this script's parts in a process of its own and return what it printed."""
    argv = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def prepare_qm9(folder: Path, limit: int | None) -> None:
    argv = [sys.executable, "-m", "hpc_kit", "data", "prepare", "qm9", "--out", str(folder), "--cutoff", "5"]
    wall, peak = wall_and_memory(argv + (["--limit", str(limit)] if limit else []))
    manifest = read_manifest(folder)
    size = sum(shard.bytes for shard in manifest.shards) / manifest.graphs
    raw = sum(13 * s.atoms + 11 * s.edges for s in manifest.shards) / manifest.graphs
    print("\n| QM9 to shards, 5 Angstrom radius graph | measured | target |\n|---|---|---|")
    print(f"| {manifest.graphs} molecules, minutes | {wall / 60:.2f} | 4 |")
    print(f"| peak memory of all processes (PSS), MB | {peak:.0f} | 2000 |")
    print(f"| bytes a molecule on disk ({raw:.0f} uncompressed) | {size:.0f} | |")


def rate(counts: Iterable[int], graphs: int) -> float:
    """Run through batches that yield how many graphs they hold; return graphs a second."""
    began = time.perf_counter()
    counted = sum(counts)
    assert counted == graphs
    return counted / (time.perf_counter() - began)


def ratios(ours: list[float], theirs: list[float]) -> str:
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], ".1f")


def batches_in_memory(folder: Path, repeats: int) -> None:
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    data = Dataset(folder, ["zpve"], GRAPH)
    index = np.arange(len(data))
    batches = [batch for _, batch in data.in_order(index, Limits(1))]
    graphs = [Data(z=b.z, pos=b.pos, edge_index=torch.stack([b.src, b.dst]), y=b.targets) for b in batches]
    peers = {
        "torch_geometric DataLoader, in this process": DataLoader(graphs, BATCH, shuffle=True),
        "torch_geometric DataLoader, 2 workers": DataLoader(graphs, BATCH, shuffle=True, num_workers=2),
    }

    def ours(epoch: int):
        return (batch.graphs for batch in data.batches(data.plan(index, Limits(BATCH), 0, epoch), ahead=0))

    rates: dict[str, list[float]] = {name: [] for name in ["ours", *peers]}
    for epoch in range(repeats):
        rates["ours"].append(rate(ours(epoch), len(data)))
        for name, loader in peers.items():
            rates[name].append(rate((batch.num_graphs for batch in loader), len(data)))
    print(f"\n| batches of {BATCH} with edges, in memory | graphs/s | ours is so many times faster | target |")
    print("|---|---|---|---|")
    print(f"| ours | {spread(rates['ours'], ',.0f')} | | |")
    for name in peers:
        print(f"| {name} | {spread(rates[name], ',.0f')} | {ratios(rates['ours'], rates[name])} | 10 |")
    peer = rates["torch_geometric DataLoader, in this process"]
    streamed = [in_new_process("--part", "stream", folder).split() for _ in range(repeats)]
    cold = [float(rate) for rate, _, _ in streamed]
    print(f"\n| batches of {BATCH}, from cold shards | graphs/s | times torch_geometric in memory | target |")
    print("|---|---|---|---|")
    print(f"| ours, 8 shards at a time | {spread(cold, ',.0f')} | {ratios(cold, peer)} | 3 |")
    _, cap, whole = streamed[0]
    print(f"\nStreaming ran with {cap} MB of memory for data (RLIMIT_DATA); the set needs {whole} MB.")


def stream(folder: Path) -> None:
    """One cold epoch with less memory than the data set takes. Prints graphs/s, the memory allowed, that needed."""
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        with (folder / shard.file).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    data = Dataset(folder, ["zpve"], GRAPH, window=8)
    torch.arange(1_000_000).sum()  # start torch's threads before memory is counted
    whole = sum(25 * s.atoms + 11 * s.edges + 200 * s.graphs for s in manifest.shards) / 2**20
    cap = int(whole * 0.7)
    used = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (used + cap * 2**20, used + cap * 2**20))
    plan = data.plan(np.arange(len(data)), Limits(BATCH), 0, 0)
    print(rate((batch.graphs for batch in data.batches(plan, ahead=0)), len(data)), cap, int(whole))


def extra_ranks(folder: Path, stage: Path) -> None:
    print("\n| ranks on the node | time to first batch, s | memory a rank beyond torch (PSS), MB |\n|---|---|---|")
    for ranks in (1, 2, 4, 8):
        argv = [sys.executable, __file__, "--part", "rank", str(folder), str(stage)]
        started = [
            subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) for _ in range(ranks)
        ]
        first = [float(process.stdout.readline()) for process in started]
        for process in started:  # each has read every page: measure while all are alive
            process.stdin.write("measure\n")
            process.stdin.flush()
        memory = [float(process.stdout.readline()) for process in started]
        for process in started:
            process.stdin.close()
            process.wait()
        print(f"| {ranks} | {max(first):.2f} | {statistics.mean(memory):.0f} |")


def one_rank(folder: Path, stage: Path) -> None:
    """One rank: open the staged set, take a batch, go through all data, then say what memory is held."""
    torch.set_num_threads(1)
    base = psutil.Process().memory_full_info().pss
    began = time.perf_counter()
    data = Dataset(folder, ["zpve"], GRAPH, stage=stage)
    plan = data.plan(np.arange(len(data)), Limits(BATCH), 0, 0)
    batches = data.batches(plan, ahead=0)
    next(batches)
    first = time.perf_counter() - began
    for _ in batches:
        pass
    print(first, flush=True)
    sys.stdin.readline()
    print((psutil.Process().memory_full_info().pss - base) / 2**20, flush=True)
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", choices=["stream", "rank"])
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.part:
        {"stream": stream, "rank": one_rank}[arguments.part](*arguments.folders)
        return
    print(f"{machine_line(torch=torch.__version__)}; median (range) of {arguments.repeats}")
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "qm9"
        prepare_qm9(folder, arguments.limit)
        batches_in_memory(folder, arguments.repeats)
        extra_ranks(folder, Path(home) / "stage")


main()
