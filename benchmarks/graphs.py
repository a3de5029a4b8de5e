"""Neighbour lists at 5 Angstrom: ours beside ASE's and pymatgen's, and the bare libraries underneath.

Usage: python benchmarks/graphs.py [--crystals FOLDER] [--repeats 5] [--mofs 1000]   (about 6 minutes on two cores)
Needs ASE; uses pymatgen, matscipy and the package core-mof (CoRE MOF 2019, CC BY 4.0) where they are installed.
FOLDER holds POSCAR files and id_prop.csv, which names them. Prints a Markdown table; docs/graphs.md holds one.
"""

import argparse
import importlib.metadata
import io
import statistics
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import vesin
from ase import Atoms
from ase.io.cif import parse_cif
from ase.neighborlist import neighbor_list
from measure import machine_line

from hpc_kit.data.graphs import radius_graph
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import read_shard_set
from hpc_kit.spec.shipped import shipped_folder

try:
    from matscipy.neighbours import neighbour_list
except ImportError:
    neighbour_list = None
try:
    from pymatgen.io.ase import AseAtomsAdaptor
except ImportError:
    AseAtomsAdaptor = None

CUTOFF = 5.0
COLUMNS = ["ours", "ASE", "pymatgen", "vesin", "vesin, one thread", "matscipy"]


def molecules() -> list[Atoms]:
    folder = shipped_folder("embedded") / "qm9_sample"
    arrays = read_shard_set(folder, read_manifest(folder))
    ptr = arrays.atom_ptr[:1001]
    pairs = zip(ptr[:-1], ptr[1:], strict=True)
    return [Atoms(arrays.z[a:b], arrays.pos[a:b].astype(np.float64)) for a, b in pairs]


def mofs(count: int) -> list[Atoms]:
    """Return `count` MOFs drawn at random from CoRE MOF 2019 (ASR); [] where the package core-mof is absent."""
    try:
        package = importlib.metadata.distribution("core-mof")
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    with tarfile.open(package.locate_file("CoRE_MOF/data/2019-ASR.tar.xz")) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.name.endswith(".cif")}
    names = sorted(files)
    for i in np.random.Generator(np.random.PCG64(2019)).permutation(len(names))[:count]:
        block = next(iter(parse_cif(io.StringIO(files[names[i]].decode()))))
        atoms = block.get_unsymmetrized_structure()  # all are P1: no symmetry to apply, which is slow
        atoms.pbc = True
        found.append(atoms)
    return found


def methods(structures: list[Atoms]) -> dict[str, list[Callable[[], int]]]:
    """Return for each column one call a structure; inputs are made beforehand, each call returns its edges."""

    def bare(a: Atoms, **options) -> Callable[[], int]:
        pos, cell, pbc = a.positions, a.cell.array, np.array(a.pbc)
        make = vesin.NeighborList
        return lambda: len(
            make(cutoff=CUTOFF, full_list=True, **options).compute(pos, cell, pbc, quantities="ijS")[0]
        )

    def matscipy(a: Atoms) -> Callable[[], int]:
        where = {"cell": a.cell.array, "pbc": a.pbc} if a.pbc.any() else {}  # else it wraps a cell around
        return lambda: len(neighbour_list("ijS", positions=a.positions, cutoff=CUTOFF, **where)[0])

    def ours(a: Atoms) -> Callable[[], int]:
        pos, cell, pbc = a.positions, a.cell.array, a.pbc
        return lambda: len(radius_graph(pos, cell, pbc, CUTOFF)[0])

    calls = {
        "ours": [ours(a) for a in structures],
        "ASE": [lambda a=a: len(neighbor_list("ijS", a, CUTOFF)[0]) for a in structures],
        "vesin": [bare(a) for a in structures],
        "vesin, one thread": [bare(a, n_threads=1) for a in structures],
    }
    if neighbour_list is not None:
        calls["matscipy"] = [matscipy(a) for a in structures]
    if AseAtomsAdaptor is not None and structures[0].pbc.all():  # its molecules have no neighbour list
        crystals = [AseAtomsAdaptor.get_structure(a) for a in structures]
        calls["pymatgen"] = [lambda c=c: len(c.get_neighbor_list(CUTOFF)[0]) for c in crystals]
    return calls


def row(name: str, structures: list[Atoms], repeats: int) -> tuple[str, dict[str, int]]:
    """Time every method `repeats` times, taking turns; return a line of the table and the edges each found."""
    calls = methods(structures)
    times: dict[str, list[float]] = {column: [] for column in calls}
    edges = {}
    for _ in range(repeats):  # taking turns, so that a drift of the machine's speed hits all
        for column in calls:
            began = time.perf_counter()
            edges[column] = sum(call() for call in calls[column])
            times[column].append((time.perf_counter() - began) / len(structures) * 1e6)
    cells = [
        f"{statistics.median(times[c]):.0f} ({min(times[c]):.0f}-{max(times[c]):.0f})" if c in times else "-"
        for c in COLUMNS
    ]
    peer = min(statistics.median(times[c]) for c in ("ASE", "pymatgen") if c in times)
    ratio = peer / statistics.median(times["ours"])
    atoms = statistics.median(len(a) for a in structures)
    what = f"{len(structures)} {name}, {atoms:g} atoms, {edges['ours'] // len(structures)} edges"
    return f"| {what} | {' | '.join(cells)} | {ratio:.1f} |", edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crystals", type=Path, help="a folder of POSCAR files and id_prop.csv")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mofs", type=int, default=1000)
    arguments = parser.parse_args()
    sets = {"QM9 molecules": molecules(), "CoRE MOFs": mofs(arguments.mofs)}
    if not sets["CoRE MOFs"]:
        print("CoRE MOFs skipped: pip install --no-deps core-mof")
    if arguments.crystals:
        names = [line.split(",")[0] for line in (arguments.crystals / "id_prop.csv").read_text().split()]
        sets["JARVIS crystals"] = [ase.io.read(arguments.crystals / name, format="vasp") for name in names]
    print(f"{machine_line()}; microseconds a structure,")
    print(f"median (range) of {arguments.repeats}; atoms are the median, edges the mean\n")
    print(f"| what | {' | '.join(COLUMNS)} | ASE or pymatgen / ours |\n|{'---|' * (len(COLUMNS) + 2)}")
    differences = []
    for name, structures in sets.items():
        if structures:
            line, edges = row(name, structures, arguments.repeats)
            print(line, flush=True)
            differences += [
                f"{name}: {c} {n - edges['ours']:+d} edges" for c, n in edges.items() if n != edges["ours"]
            ]
    print(f"\nEdges found beside ours: {'; '.join(differences) or 'the same everywhere'}")


main()
