"""Tables of SMILES as a source: RDKit makes the geometry, and the set says so."""

import numpy as np
import pytest
from ase import Atoms

from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.shards import read_shard_set
from hpc_kit.data.sources import open_source
from hpc_kit.data.sources.smiles import structure_of
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError

pytest.importorskip("rdkit")


def test_geometry_is_that_of_the_molecule_and_the_same_every_time():
    z, pos = structure_of("CCO")
    ethanol = Atoms(z, pos)
    assert ethanol.get_chemical_formula() == "C2H6O"
    assert [ethanol.get_distance(0, 1), ethanol.get_distance(1, 2)] == pytest.approx([1.52, 1.42], abs=0.04)
    assert ethanol.get_all_distances()[~np.eye(9, dtype=bool)].min() > 0.9
    np.testing.assert_array_equal(structure_of("CCO")[1], pos)


@pytest.mark.parametrize("text", ["", "C1CC", "not smiles", "[Xx]"])
def test_what_is_no_molecule_is_rejected(text):
    with pytest.raises(RejectedError, match="is not a SMILES that RDKit reads"):
        structure_of(text)


def test_table_becomes_a_shard_set_with_its_smiles_and_targets(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("SMILES;name;gap\nCCO;ethanol;7.1\nO;;\nC1CC;broken;1\n")
    source = open_source("smiles", table, {"columns": "gap", "units": "gap:eV"})
    manifest = prepare(source, tmp_path / "set", Settings(Graph()), workers=0)
    arrays = read_shard_set(tmp_path / "set", manifest)
    assert arrays.ids.tolist() == [b"ethanol", b"row_000002"] and manifest.rejected == 1
    assert arrays.smiles.tolist() == [b"CCO", b"O"] and manifest.targets["gap"].unit == "eV"
    assert arrays.targets["gap"][0] == 7.1 and np.isnan(arrays.targets["gap"][1])
    assert manifest.source["structure"].startswith("3-D by RDKit 20")


def test_smi_file_is_a_smiles_and_a_name_a_line(tmp_path):
    (tmp_path / "m.smi").write_text("CCO ethyl alcohol\n\nN\n")
    assert [id for id, _ in open_source("smiles", tmp_path / "m.smi", {}).records()] == [
        "ethyl alcohol",
        "row_000003",
    ]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "has no column called smiles; its first line says 'a, b'"),
        ("smiles\nC\n", {"smiles_column": "smile"}, "no column 'smile'; did you mean 'smiles'"),
        ("smiles\nC\n", {"columns": "gap"}, "no column 'gap'; allowed: smiles"),
        ("smiles,gap\nC,1\n", {"columns": "gap", "units": "ga:eV"}, "'ga:eV' is not target:unit"),
        ("", {}, "has no column called smiles"),
    ],
)
def test_table_without_what_is_asked_for_is_refused(tmp_path, text, options, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source("smiles", tmp_path / "m.csv", options)
