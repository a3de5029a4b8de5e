"""Line graphs and angles beside plain loops, and the counts of a published data sample."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from conftest import SHARED_DATA

from hpc_kit.data.batches import GraphStore
from hpc_kit.data.graphs import build_graph
from hpc_kit.data.line_graph import angle_cosines, line_graph
from hpc_kit.data.shards import pack
from hpc_kit.data.structures import Structure
from hpc_kit.spec.data import Graph

JARVIS = SHARED_DATA / "jarvis_sample"
STRUCTURES = {
    "water": (molecule("H2O"), Graph(cutoff=1.2)),
    "ethanol": (molecule("CH3CH2OH"), Graph(cutoff=2.5)),
    "benzene": (molecule("C6H6"), Graph(cutoff=4.0, max_neighbors=3)),
    "copper": (bulk("Cu", a=4.0), Graph(rule="alignn", cutoff=8.0, max_neighbors=12)),
    "salt": (bulk("NaCl", "rocksalt", a=5.64), Graph(cutoff=6.0, max_neighbors=12)),
    "magnesium": (bulk("Mg"), Graph(rule="alignn", cutoff=8.0, max_neighbors=12)),
}


def loops(src: np.ndarray, dst: np.ndarray) -> list[tuple[int, int]]:
    """DGL's line graph: every other edge that starts where an edge ends, sorted by the second edge."""
    edges = range(len(src))
    return [(i, j) for j in edges for i in edges if dst[i] == src[j] and i != j]


@pytest.mark.parametrize("name", STRUCTURES)
def test_line_graph_equals_loops(name):
    atoms, settings = STRUCTURES[name]
    src, dst, _ = build_graph(atoms.positions, atoms.cell.array, np.array(atoms.pbc), settings)
    first, second = line_graph(torch.from_numpy(src), torch.from_numpy(dst), len(atoms))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == loops(src, dst)


@pytest.mark.parametrize("seed", range(5))
def test_line_graph_of_edges_in_any_order_equals_loops(seed):
    src, dst = np.random.default_rng(seed).integers(0, 6, (2, 20))  # with repeated edges, loops and lone atoms
    first, second = line_graph(torch.from_numpy(src), torch.from_numpy(dst), 8)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == loops(src, dst)


def test_line_graph_equals_the_example_in_dgl():
    """The matrix C (with backtracking) of _TestLineGraphCOO in DGL's tests/cpp/test_aten.cc."""
    src, dst = torch.tensor([0, 1, 1, 2, 2, 3]), torch.tensor([2, 0, 2, 0, 1, 3])
    first, second = line_graph(src, dst, 4)
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    assert pairs == {(0, 3), (0, 4), (1, 0), (2, 3), (2, 4), (3, 0), (4, 1), (4, 2)}


def test_line_graph_without_edges_is_empty():
    none = torch.empty(0, dtype=torch.int64)
    first, second = line_graph(none, none, 3)
    assert first.shape == second.shape == (0,)
    assert first.dtype == second.dtype == torch.int64


def test_line_graph_of_a_batch_is_that_of_its_graphs():
    parts = ["ethanol", "water", "benzene"]
    atoms = [STRUCTURES[name][0] for name in parts]
    structures = [Structure(n, a.numbers, a.positions, {"e": 0.0}) for n, a in zip(parts, atoms, strict=True)]
    batch = GraphStore(pack(structures, ["e"], Graph(cutoff=2.0)), ["e"]).batch(np.arange(3))
    first, second = line_graph(batch.src, batch.dst, len(batch.z))
    expected = []
    for begin, end in zip(batch.edge_ptr[:-1].tolist(), batch.edge_ptr[1:].tolist(), strict=True):
        alone = line_graph(batch.src[begin:end], batch.dst[begin:end], len(batch.z))
        expected.append(torch.stack(alone) + begin)
    assert torch.equal(torch.stack([first, second]), torch.cat(expected, dim=1))


def test_angles_of_water():
    atoms = molecule("H2O")  # O, H, H
    src, dst, _ = build_graph(atoms.positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), Graph(cutoff=1.2))
    src, dst = torch.from_numpy(src), torch.from_numpy(dst)
    first, second = line_graph(src, dst, 3)
    pos = torch.from_numpy(atoms.positions)
    cosines = angle_cosines(pos[src] - pos[dst], first, second)
    through_oxygen = (dst[first] == 0) & (src[first] != dst[second])
    angle = torch.rad2deg(torch.arccos(cosines[through_oxygen]))
    assert angle.tolist() == pytest.approx([atoms.get_angle(1, 0, 2)] * 2)


@pytest.mark.parametrize("name", ["ethanol", "copper", "salt"])
def test_angles_equal_the_formula_of_alignn(name):
    atoms, settings = STRUCTURES[name]
    src, dst, shift = build_graph(atoms.positions, atoms.cell.array, np.array(atoms.pbc), settings)
    first, second = line_graph(torch.from_numpy(src), torch.from_numpy(dst), len(atoms))
    vectors = torch.from_numpy(atoms.positions[src] + shift @ atoms.cell.array - atoms.positions[dst])
    r = -vectors  # ALIGNN's run from src to dst
    r1, r2 = -r[first], r[second]
    expected = (torch.sum(r1 * r2, dim=1) / (torch.norm(r1, dim=1) * torch.norm(r2, dim=1))).clamp(-1, 1)
    torch.testing.assert_close(angle_cosines(vectors, first, second), expected)


def test_angle_between_an_edge_and_its_reverse_is_zero():
    vectors = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    first, second = line_graph(torch.tensor([0, 1]), torch.tensor([1, 0]), 2)
    assert angle_cosines(vectors, first, second).tolist() == pytest.approx([1.0, 1.0])


def read_as_jarvis(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pos, cell of a POSCAR with fractional coordinates: jarvis-tools places atoms with the cell rounded to
    five decimals, and images with the cell as written."""
    lines = path.read_text().splitlines()
    cell = np.array([line.split()[:3] for line in lines[2:5]], dtype=float) * float(lines[1])
    count = sum(map(int, lines[6].split()))
    assert lines[7].strip().lower().startswith("d")
    fractions = np.array([line.split()[:3] for line in lines[8 : 8 + count]], dtype=float)
    return fractions @ cell.round(5), cell


@pytest.mark.skipif(not JARVIS.is_dir(), reason="needs the 50 JARVIS crystals in shared/data/jarvis_sample")
def test_counts_of_the_jarvis_sample_are_those_of_alignn():
    settings = Graph(rule="alignn", cutoff=8.0, max_neighbors=12)
    atoms = edges = triplets = 0
    with (JARVIS / "id_prop.csv").open(newline="") as file:
        for name, _ in csv.reader(file):
            pos, cell = read_as_jarvis(JARVIS / name)
            src, dst, _ = build_graph(pos, cell, np.ones(3, dtype=bool), settings)
            first, _ = line_graph(torch.from_numpy(src), torch.from_numpy(dst), len(pos))
            atoms, edges, triplets = atoms + len(pos), edges + len(src), triplets + len(first)
    assert (atoms, edges, triplets) == (727, 9658, 130334)
