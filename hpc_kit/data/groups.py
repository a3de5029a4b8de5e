"""Which graphs belong together, by formula or by Murcko scaffold, and how whole groups are dealt out to parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_kit.spec.errors import InputError


@dataclass(frozen=True)
class Grouping:
    """number [G] int64: the group of each graph, counted in order of first appearance.

    unparsed: how many graphs have no scaffold because rdkit cannot read their SMILES.
    """

    number: np.ndarray
    unparsed: int = 0


def group_graphs(
    by: str, z: np.ndarray, atom_ptr: np.ndarray, pbc: np.ndarray, smiles: np.ndarray | None = None
) -> Grouping:
    """Group graphs by "formula" or "scaffold"; arrays as in shards.py, smiles [G] bytes.

    Raises InputError where scaffolds are asked for and there are no SMILES or no rdkit.
    """
    formulas = _formula_keys(z, atom_ptr, pbc)
    if by == "formula":
        return Grouping(_numbered(formulas))
    if smiles is None:
        raise InputError(
            "data.split.group: scaffolds are made from SMILES, and this data set stores none: prepare it from a"
            " source that has them, or group by formula"
        )
    texts, inverse = np.unique(smiles, return_inverse=True)
    scaffolds = np.array(_scaffolds([text.decode(errors="replace") for text in texts]), dtype=object)[inverse]
    unparsed = np.flatnonzero(scaffolds == None)  # noqa: E711 (elementwise)
    keys = [(text,) for text in scaffolds]
    for graph in unparsed:
        keys[graph] = ("formula", int(formulas[graph]))
    numbers: dict[tuple, int] = {}
    return Grouping(np.array([numbers.setdefault(key, len(numbers)) for key in keys]), len(unparsed))


def deal(groups: np.ndarray, places: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Deal whole groups out to parts with so many `places`; return [G] int64, the part of each graph.

    groups [G]: the group of each graph. Largest group first, equal ones in shuffled order. A group goes to one of
    the parts that have room for all of it, drawn with a probability proportional to their free places; where none
    has room, to the part with most free places, the first of equals. Groups of one graph each therefore give a
    uniformly random split of exactly `places`. As long as all parts have room, large groups and small ones have
    the same chance to be in the test part, so it does not collect the rare ones.
    """
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number)
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    free = list(places)
    part_of = np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        size = int(sizes[group])
        room = [count if count >= size else 0 for count in free]
        if sum(room):
            part = int(np.searchsorted(np.cumsum(room), random.integers(sum(room)), side="right"))
        else:
            part = free.index(max(free))
        free[part] -= size
        part_of[group] = part
    return part_of[number]


def _formula_keys(z: np.ndarray, atom_ptr: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return [G] int64, equal where formulas are: atoms of each element, for periodic graphs in lowest terms.

    Na4Cl4 and NaCl are cells of one formula; C2H2 and C6H6 are two molecules.
    """
    elements, code = np.unique(z, return_inverse=True)
    graphs = len(atom_ptr) - 1
    graph = np.repeat(np.arange(graphs), np.diff(atom_ptr))
    atoms = np.bincount(graph * len(elements) + code, minlength=graphs * len(elements)).reshape(graphs, -1)
    divisor = np.where(pbc.any(axis=1), np.gcd.reduce(atoms, axis=1), 1)
    rows = np.ascontiguousarray(atoms // np.maximum(divisor, 1)[:, None])
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    return np.unique(as_bytes, return_inverse=True)[1]


def _numbered(keys: np.ndarray) -> np.ndarray:
    """Renumber groups in order of first appearance."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _scaffolds(texts: list[str]) -> list[str | None]:
    """Return the Murcko scaffold of each SMILES (J. Med. Chem. 39, 2887 (1996)): rings and what links them, as
    canonical SMILES without stereochemistry; "" without a ring, None where rdkit cannot read it."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError:
        raise InputError("data.split.group: scaffolds need rdkit: pip install 'hpc-kit[chem]'") from None
    with rdBase.BlockLogs():
        molecules = (Chem.MolFromSmiles(text) if text else None for text in texts)
        return [None if m is None else MurckoScaffold.MurckoScaffoldSmiles(mol=m) for m in molecules]
