"""Neighbour lists beside ASE's."""

import numpy as np
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from hpc_kit.data.graphs import radius_graph


def as_set(src, dst, shift):
    return {(int(i), int(j), *map(int, s)) for i, j, s in zip(src, dst, shift, strict=True)}


def test_molecule_equals_ase():
    atoms = molecule("C6H6")
    src, dst, shift = radius_graph(atoms.positions, np.zeros((3, 3)), atoms.pbc, 2.0)
    dst_ase, src_ase, shift_ase = neighbor_list("ijS", atoms, 2.0)
    assert as_set(src, dst, shift) == as_set(src_ase, dst_ase, shift_ase)


def test_crystal_with_a_cell_smaller_than_the_cutoff_equals_ase():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    src, dst, shift = radius_graph(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
    dst_ase, src_ase, shift_ase = neighbor_list("ijS", atoms, 6.0)
    assert as_set(src, dst, shift) == as_set(src_ase, dst_ase, shift_ase)
    assert len(src) == len(src_ase) > 0


def test_edges_are_sorted_by_destination():
    atoms = molecule("C6H6")
    _, dst, _ = radius_graph(atoms.positions, np.zeros((3, 3)), atoms.pbc, 3.0)
    assert (np.diff(dst) >= 0).all()
