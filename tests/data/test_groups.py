"""Groups: what counts as one formula or one scaffold, and how whole groups are dealt out."""

import sys

import numpy as np
import pytest

from hpc_kit.data.groups import deal, group_graphs
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import read_shard_set
from hpc_kit.data.splits import draw
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.split import Groups


def group(by, graphs, periodic=False, smiles=None):
    """Group graphs given as lists of atomic numbers."""
    z = np.array([number for graph in graphs for number in graph], dtype=np.uint8)
    ptr = np.cumsum([0] + [len(graph) for graph in graphs])
    pbc = np.full((len(graphs), 3), periodic)
    texts = None if smiles is None else np.array([text.encode() for text in smiles])
    return group_graphs(by, z, ptr, pbc, texts)


def scaffolds(*smiles):
    """Group by scaffold; graph number i is a cluster of i + 1 carbon atoms, so all formulas differ."""
    return group("scaffold", [[6] * (i + 1) for i in range(len(smiles))], smiles=smiles)


WATER, HYDRAZINE, ACETYLENE, BENZENE = [8, 1, 1], [7, 7, 1, 1, 1, 1], [6, 6, 1, 1], [6] * 6 + [1] * 6


def test_formula_does_not_depend_on_the_order_of_atoms():
    assert group("formula", [WATER, HYDRAZINE, [1, 8, 1]]).number.tolist() == [0, 1, 0]


def test_molecules_with_equal_ratios_are_different_formulas():
    assert group("formula", [ACETYLENE, BENZENE]).number.tolist() == [0, 1]


def test_cells_of_one_crystal_are_one_formula():
    assert group("formula", [[11, 17], [11, 17] * 4, [11, 11, 17]], periodic=True).number.tolist() == [0, 0, 1]


def test_formulas_of_the_sample_are_those_counted_one_by_one():
    folder = shipped_folder("embedded") / "qm9_sample"
    arrays = read_shard_set(folder, read_manifest(folder))
    number = group_graphs("formula", arrays.z, arrays.atom_ptr, arrays.pbc).number
    ends = zip(arrays.atom_ptr[:-1], arrays.atom_ptr[1:], strict=True)
    formulas = [tuple(sorted(arrays.z[start:end].tolist())) for start, end in ends]
    assert len(set(formulas)) == number.max() + 1 == len(set(zip(formulas, number.tolist(), strict=True)))


def test_molecules_with_one_ring_system_share_a_scaffold():
    pytest.importorskip("rdkit")
    toluene, phenol, cyclohexane, biphenyl = "Cc1ccccc1", "Oc1ccccc1", "C1CCCCC1", "c1ccc(cc1)-c1ccccc1"
    assert scaffolds(toluene, cyclohexane, phenol, biphenyl).number.tolist() == [0, 1, 0, 2]


def test_molecules_without_a_ring_are_one_group():
    pytest.importorskip("rdkit")
    assert scaffolds("CCO", "C1CC1", "CC", "C").number.tolist() == [0, 1, 0, 0]


def test_mirror_images_share_a_scaffold():
    pytest.importorskip("rdkit")
    assert scaffolds("C[C@H]1CC[C@@H](O)O1", "C[C@@H]1CC[C@H](O)O1").number.tolist() == [0, 0]


def test_molecules_that_cannot_be_parsed_are_grouped_by_formula_and_told():
    pytest.importorskip("rdkit")
    grouping = group("scaffold", [WATER, WATER, HYDRAZINE, ACETYLENE], smiles=["not smiles", "", "C(", "C#C"])
    assert grouping.number.tolist() == [0, 0, 1, 2]
    ids = np.array([b"a", b"b", b"c", b"d"])
    split = Groups(group="scaffold", train=0.5, val=0.25, test=0.25)
    parts = draw(split, ids, np.ones(4, dtype=bool), "sha", grouping=grouping)
    assert parts.notes == ["split: rdkit cannot read 3 SMILES; those graphs are grouped by formula"]
    assert parts.manifest["grouped_by_formula"] == 3


def test_scaffolds_without_smiles_name_the_remedy():
    with pytest.raises(InputError, match="stores none: prepare it from a source that has them, or group by formula"):
        group("scaffold", [WATER])


def test_scaffolds_without_rdkit_name_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(InputError, match=r"scaffolds need rdkit: pip install 'hpc-kit\[chem\]'"):
        scaffolds("CCO")


def dealt(groups, places, seed=0):
    return deal(np.asarray(groups), places, np.random.Generator(np.random.PCG64(seed)))


@pytest.mark.parametrize("seed", range(20))
def test_whole_groups_fill_the_places_exactly_where_there_are_small_ones(seed):
    random = np.random.Generator(np.random.PCG64(seed))
    groups = random.zipf(1.5, 1000) % 300
    part = dealt(groups, [800, 100, 100], seed)
    assert all(len(np.unique(part[groups == group])) == 1 for group in np.unique(groups))
    assert abs(np.bincount(part, minlength=3) - [800, 100, 100]).max() <= 3


def test_group_larger_than_any_part_goes_to_the_one_with_most_places():
    assert dealt([0] * 9 + [1, 2], [8, 2, 1])[0] == 0


def test_groups_of_one_give_exactly_the_places():
    assert np.bincount(dealt(np.arange(100), [80, 15, 5])).tolist() == [80, 15, 5]


def test_large_and_small_groups_have_the_same_chance_to_be_in_the_test_part():
    """Groups of 5 and of 1 over 2,000 seeds: both are in the test part as often as it is large, 3 in 10."""
    groups = np.concatenate([np.repeat(np.arange(10), 5), np.arange(10, 60)])
    tested = np.array([dealt(groups, [70, 30], seed) == 1 for seed in range(2000)])
    assert tested[:, :50].mean() == pytest.approx(0.3, abs=0.01)
    assert tested[:, 50:].mean() == pytest.approx(0.3, abs=0.01)
