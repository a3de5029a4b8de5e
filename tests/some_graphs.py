"""Graphs for the tests of models: a few molecules, and a few crystals whose atoms are off their symmetric sites."""

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hpc_kit.data.batches import GraphBatch, GraphStore
from hpc_kit.data.shards import pack
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.spec.data import Graph

MOLECULES = ("H2O", "CH3CH2OH", "C6H6", "CH3CONH2", "SO2", "NH3")


def some_molecules() -> list[Atoms]:
    return [rattled(molecule(name), seed) for seed, name in enumerate(MOLECULES)]


def some_crystals() -> list[Atoms]:
    """Return crystals of 1 to 16 atoms, some in cells smaller than any cutoff."""
    perovskite = Atoms("SrTiO3", [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    perovskite.set_cell(np.eye(3) * 3.905, scale_atoms=False)
    perovskite.positions *= 3.905
    perovskite.pbc = True
    pure = [bulk("Cu", a=3.6), bulk("NaCl", "rocksalt", a=5.64), bulk("GaAs", "zincblende", a=5.65), perovskite]
    return [rattled(atoms, seed) for seed, atoms in enumerate([*pure, pure[1].repeat((2, 2, 2)), bulk("Mg")])]


def rattled(atoms: Atoms, seed: int) -> Atoms:
    """Return a copy with every coordinate moved by about 0.05 Angstrom."""
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0.0, 0.05, atoms.positions.shape)
    return atoms


def batch_of(atoms: list[Atoms], graph: Graph, forces: bool = False) -> GraphBatch:
    """Return `atoms` as one batch; the target is each structure's number, forces are zero."""
    none = [np.zeros((len(a), 3)) if forces else None for a in atoms]
    structures = [
        from_ase(f"{number}", a, {"number": float(number)}, f)
        for number, (a, f) in enumerate(zip(atoms, none, strict=True))
    ]
    return GraphStore(pack(structures, ["number"], graph), ["number"]).batch(np.arange(len(atoms)))


def stored_reference(path: Path) -> tuple[dict[str, np.ndarray], GraphBatch]:
    """Return what tests/references/make.py stored: the package's numbers, and the graphs they belong to."""
    with np.load(path, allow_pickle=False) as file:
        content = dict(file)
    graph = {name.removeprefix("graph/"): content.pop(name) for name in list(content) if name.startswith("graph/")}
    return content, GraphBatch(**{"shift": None} | {name: torch.from_numpy(value) for name, value in graph.items()})
