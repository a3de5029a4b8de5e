"""Graphs beside ASE's neighbour list, beside brute force, and under changes that must not matter."""

import itertools
from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, make_supercell, molecule, nanotube
from ase.neighborlist import neighbor_list
from pydantic import ValidationError

from hpc_kit.data.graphs import build_graph, radius_graph
from hpc_kit.data.shards import check_structure, pack
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.data import Graph

RADIUS = Graph(cutoff=4.0)
NEAREST = Graph(cutoff=6.0, max_neighbors=7)
ALIGNN = Graph(rule="alignn", cutoff=8.0, max_neighbors=12)


def graph(atoms: Atoms, settings: Graph):
    return build_graph(atoms.positions, atoms.cell.array, np.array(atoms.pbc), settings)


def as_counter(src, dst, shift) -> Counter:
    return Counter((int(i), int(j), *map(int, s)) for i, j, s in zip(src, dst, shift, strict=True))


def ase_graph(atoms: Atoms, cutoff: float) -> Counter:
    dst, src, shift = neighbor_list("ijS", atoms, cutoff)
    return as_counter(src, dst, shift)


def shells(atoms: Atoms, settings: Graph) -> list[tuple[float, ...]]:
    """Return the sorted distances of each atom's neighbours."""
    src, dst, shift = graph(atoms, settings)
    vectors = atoms.positions[src] + shift @ atoms.cell.array - atoms.positions[dst]
    distance = np.linalg.norm(vectors, axis=1).round(6)
    return [tuple(np.sort(distance[dst == i])) for i in range(len(atoms))]


def random_crystal(seed: int, pbc=True) -> Atoms:
    """1 to 12 atoms, some outside the cell, which may be very skewed and smaller than the cutoff.

    All numbers are multiples of 1/16, so that distances are exact and equal ones are equal to the last bit.
    """
    rng = np.random.default_rng(seed)
    skew = rng.choice([0.0, 2.0, 12.0])
    cell = np.diag(rng.uniform(2.0, 9.0, 3)) + np.tril(rng.uniform(-skew, skew, (3, 3)), -1)
    positions = rng.uniform(-0.5, 1.5, (int(rng.integers(1, 13)), 3)) @ cell
    positions = np.unique((positions * 16).round() / 16, axis=0)
    return Atoms(f"H{len(positions)}", positions=positions, cell=(cell * 16).round() / 16, pbc=pbc)


def published_rule(atoms: Atoms, cutoff: float, count: int) -> Counter:
    """ALIGNN's neighbours in plain loops, from the description in docs/graphs.md."""
    cell, pos = atoms.cell.array, atoms.positions
    lengths = np.linalg.norm(cell, axis=1)
    while True:
        spread = np.ptp(atoms.cell.scaled_positions(pos), axis=0)
        reach = np.ceil(cutoff * np.linalg.norm(atoms.cell.reciprocal(), axis=1) + spread).astype(int)
        images = list(itertools.product(*(range(-r, r + 1) for r in reach)))
        neighbours = []
        for i in range(len(atoms)):
            distances = {
                (j, image): float(np.sqrt(((image @ cell + pos[j] - pos[i]) ** 2).sum()))
                for j, image in itertools.product(range(len(atoms)), images)
            }
            neighbours.append({key: d for key, d in distances.items() if 0.15 < d <= cutoff})
        if min(map(len, neighbours)) >= count:
            break
        cutoff = max(lengths) if cutoff < max(lengths) else 2 * cutoff
    pairs = set()
    for i, found in enumerate(neighbours):
        last = sorted(found.values())[count - 1]
        for (j, image), distance in found.items():
            if distance <= last:
                pairs.add((i, j, *image) if i <= j else (j, i, *(-x for x in image)))
    edges = Counter()
    for i, j, *image in pairs:
        edges[(j, i, *image)] += 1
        edges[(i, j, *(-x for x in image))] += 1
    return edges


def test_molecule_equals_ase():
    atoms = molecule("C6H6")
    assert as_counter(*graph(atoms, Graph(cutoff=2.0))) == ase_graph(atoms, 2.0)


def test_crystal_with_a_cell_smaller_than_the_cutoff_equals_ase():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    found = as_counter(*graph(atoms, Graph(cutoff=6.0)))
    assert found == ase_graph(atoms, 6.0)
    assert len(found) > 0


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("seed", range(12))
def test_random_cells_equal_ase(seed, pbc):
    atoms = random_crystal(seed, pbc)
    assert as_counter(*graph(atoms, RADIUS)) == ase_graph(atoms, RADIUS.cutoff)


def test_tiny_cell_equals_ase():
    atoms = Atoms("H", cell=[0.9, 1.0, 1.1], pbc=True)
    assert as_counter(*graph(atoms, RADIUS)) == ase_graph(atoms, RADIUS.cutoff)


def test_slab_without_a_third_vector_equals_ase():
    atoms = Atoms("H2", positions=[[0, 0, 0], [1, 1, 3]], cell=[3.0, 3.0, 0.0], pbc=[True, True, False])
    assert as_counter(*graph(atoms, RADIUS)) == ase_graph(atoms, RADIUS.cutoff)


# ASE's builders leave the vectors zero that are not periodic.
SHEET, SLAB, TUBE = graphene(), fcc111("Cu", (1, 1, 3)), nanotube(4, 0, length=1)


@pytest.mark.parametrize(("atoms", "edges"), [(SHEET, 60), (SLAB, 90), (TUBE, 528)])
def test_zero_vectors_that_are_not_periodic_count_as_long_ones(atoms, edges):
    long = atoms.copy()
    long.cell = np.where(atoms.pbc[:, None], atoms.cell.array, 60 * np.eye(3))
    found = as_counter(*graph(atoms, Graph(cutoff=5.0)))
    assert found == as_counter(*graph(long, Graph(cutoff=5.0))) == ase_graph(atoms, 5.0)
    assert sum(found.values()) == edges
    structure = from_ase("x", atoms, {})
    check_structure(structure)
    assert len(pack([structure], [], Graph(cutoff=5.0)).src) == edges


def test_a_lone_atom_gives_no_edges():
    src, dst, shift = graph(Atoms("He"), RADIUS)
    assert src.shape == dst.shape == (0,)
    assert shift.shape == (0, 3)


def test_a_pair_as_far_as_the_cutoff_is_no_edge():
    assert len(graph(Atoms("H2", positions=[[0, 0, 0], [4, 0, 0]]), RADIUS)[0]) == 0


@pytest.mark.parametrize("settings", [RADIUS, NEAREST, ALIGNN], ids=["radius", "nearest", "alignn"])
@pytest.mark.parametrize("seed", range(4))
def test_edges_are_int64_and_sorted_by_dst_src_shift(seed, settings):
    src, dst, shift = graph(random_crystal(seed), settings)
    assert src.dtype == dst.dtype == shift.dtype == np.int64
    rows = np.column_stack([dst, src, shift]).tolist()
    assert rows == sorted(rows)
    assert len(rows) > 0


@pytest.mark.parametrize("settings", [RADIUS, ALIGNN], ids=["radius", "alignn"])
@pytest.mark.parametrize("seed", range(4))
def test_order_of_atoms_does_not_matter(seed, settings):
    atoms = random_crystal(seed)
    order = np.random.default_rng(seed).permutation(len(atoms))
    src, dst, shift = graph(atoms[order], settings)
    assert as_counter(order[src], order[dst], shift) == as_counter(*graph(atoms, settings))


@pytest.mark.parametrize("settings", [RADIUS, NEAREST, ALIGNN], ids=["radius", "nearest", "alignn"])
@pytest.mark.parametrize("seed", range(4))
def test_moving_all_atoms_does_not_matter(seed, settings):
    atoms = random_crystal(seed)
    moved = atoms.copy()
    moved.positions += [3.25, -7.5, 0.125]
    assert as_counter(*graph(moved, settings)) == as_counter(*graph(atoms, settings))


@pytest.mark.parametrize("settings", [RADIUS, NEAREST, ALIGNN], ids=["radius", "nearest", "alignn"])
@pytest.mark.parametrize("seed", range(4))
def test_wrapping_atoms_into_the_cell_does_not_matter(seed, settings):
    atoms = random_crystal(seed)
    wrapped = atoms.copy()
    wrapped.positions -= np.floor(atoms.cell.scaled_positions(atoms.positions) + 1e-9) @ atoms.cell.array
    assert shells(wrapped, settings) == shells(atoms, settings)


@pytest.mark.parametrize("settings", [RADIUS, NEAREST], ids=["radius", "nearest"])
@pytest.mark.parametrize("crystal", [bulk("Cu", a=3.5), bulk("NaCl", "rocksalt", a=5.5), bulk("Mg")], ids=str)
def test_supercell_gives_each_atom_the_same_neighbours(crystal, settings):
    supercell = make_supercell(crystal, [[2, 1, 0], [0, 1, 0], [0, 0, 3]])
    assert set(shells(supercell, settings)) == set(shells(crystal, settings))


def test_nearest_keeps_the_count_of_each_atom():
    _, dst, _ = graph(random_crystal(3), NEAREST)
    assert set(np.bincount(dst)) == {7}


def test_nearest_keeps_the_nearest():
    atoms = random_crystal(3)
    everything = shells(atoms, Graph(cutoff=NEAREST.cutoff))
    assert shells(atoms, NEAREST) == [distances[:7] for distances in everything]


def test_nearest_takes_what_there_is():
    atoms = molecule("H2O")
    assert as_counter(*graph(atoms, NEAREST)) == ase_graph(atoms, NEAREST.cutoff)


def test_nearest_breaks_ties_by_src_then_shift():
    atoms = bulk("NaCl", "rocksalt", a=5.5, cubic=True)  # 6 neighbours at 2.75, then 12 at 3.89 Angstrom
    src, dst, shift = graph(atoms, Graph(cutoff=5.0, max_neighbors=8))
    every_src, every_dst, every_shift = graph(atoms, Graph(cutoff=5.0))
    vectors = atoms.positions[every_src] + every_shift @ atoms.cell.array - atoms.positions[every_dst]
    second = (every_dst == 0) & (np.abs(np.linalg.norm(vectors, axis=1) - 2.75 * np.sqrt(2)) < 1e-3)
    expected = list(as_counter(every_src[second], every_dst[second], every_shift[second]))[:2]
    assert set(expected) <= set(as_counter(src, dst, shift))
    assert set(np.bincount(dst)) == {8}


@pytest.mark.parametrize("count", [1, 5, 8, 13, 20])
def test_nearest_does_not_feel_the_rounding_of_positions(count):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * 2
    settings = Graph(cutoff=6.0, max_neighbors=count)
    rounded = atoms.copy()
    rounded.positions = atoms.positions.astype(np.float32) + np.random.default_rng(0).normal(0, 2e-6, (len(atoms), 3))
    assert as_counter(*graph(rounded, settings)) == as_counter(*graph(atoms, settings))


@pytest.mark.parametrize("seed", range(10))
def test_alignn_equals_the_published_rule_on_random_crystals(seed):
    atoms = random_crystal(100 + seed)[:4]
    assert as_counter(*graph(atoms, ALIGNN)) == published_rule(atoms, 8.0, 12)


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu", a=4.0),
        bulk("Cu", a=4.0, cubic=True),
        bulk("NaCl", "rocksalt", a=5.5),
        bulk("Si", a=5.0),
        Atoms("H", cell=[9.0, 9.0, 9.0], pbc=True),  # the cutoff has to grow twice
        Atoms("H2", positions=[[0, 0, 0], [1, 0, 0]], cell=[4.0, 4.0, 20.0], pbc=True),
    ],
    ids=["fcc", "fcc-cubic", "rocksalt", "diamond", "dilute", "layer"],
)
def test_alignn_equals_the_published_rule_with_ties(atoms):
    assert as_counter(*graph(atoms, ALIGNN)) == published_rule(atoms, 8.0, 12)


def test_alignn_holds_every_pair_in_both_directions():
    src, dst, shift = graph(random_crystal(5), ALIGNN)
    assert as_counter(src, dst, shift) == as_counter(dst, src, -shift)


def test_alignn_holds_images_of_the_same_atom_twice():
    assert set(as_counter(*graph(bulk("Cu", a=4.0), ALIGNN)).values()) == {2}


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_alignn_refuses_what_is_not_periodic(pbc):
    with pytest.raises(RejectedError, match="periodic in all three directions"):
        graph(random_crystal(0, pbc), ALIGNN)


def test_alignn_needs_max_neighbors():
    with pytest.raises(ValidationError, match="alignn needs max_neighbors"):
        Graph(rule="alignn", cutoff=8.0)


@pytest.mark.parametrize("settings", [RADIUS, NEAREST, ALIGNN], ids=["radius", "nearest", "alignn"])
def test_a_shift_beyond_int8_is_refused(settings):
    atoms = Atoms("H2", positions=[[0, 0, 0], [400.5, 0, 0]], cell=[3.0, 3.0, 3.0], pbc=True)
    with pytest.raises(RejectedError, match="wrap the atoms"):
        graph(atoms, settings)


def test_the_farthest_shifts_of_int8_are_kept():
    atoms = Atoms("H2", positions=[[0, 0, 0], [127 * 3.0 + 0.5, 0, 0]], cell=[3.0, 30.0, 30.0], pbc=True)
    _, _, shift = graph(atoms, Graph(cutoff=1.0))
    assert shift.tolist() == [[-127, 0, 0], [127, 0, 0]]


def test_positions_that_are_not_finite_are_refused():
    with pytest.raises(RejectedError, match="finite"):
        radius_graph(np.full((2, 3), np.nan), np.eye(3), np.ones(3, dtype=bool), 2.0)


def test_a_periodic_cell_without_volume_is_refused():
    with pytest.raises(RejectedError, match="cell|box"):
        radius_graph(np.zeros((1, 3)), np.diag([3.0, 3.0, 0.0]), np.ones(3, dtype=bool), 2.0)
