"""QM9 in the forms in which people have it. The records below are QM9's own first molecules, copied."""

import importlib.metadata
import io
import pickle
import tarfile
from pathlib import Path

import pytest

from hpc_kit.data.sources import open_source, qm9_files
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.errors import InputError

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t\
-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 2.150416*^-3\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
SDF = """gdb_1
  -OEChem-03231823243D

  5  4  0     0  0  0  0  0  0999 V2000
   -0.0127    1.0858    0.0080 C   0  0  0  0  0  0  0  0  0  0  0  0
    0.0022   -0.0060    0.0020 H   0  0  0  0  0  0  0  0  0  0  0  0
    1.0117    1.4638    0.0003 H   0  0  0  0  0  0  0  0  0  0  0  0
   -0.5408    1.4475   -0.8766 H   0  0  0  0  0  0  0  0  0  0  0  0
   -0.5238    1.4379    0.9064 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0  0  0  0
M  END
$$$$
"""
SDF_TABLE = """mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom,u298_atom,h298_atom,g298_atom
gdb_1,157.7118,157.70997,157.70699,0,13.21,-0.3877,0.1171,0.5048,35.3641,0.044749,-40.47893,-40.476062,-40.475117,\
-40.498597,6.469,-395.999594594,-398.643290011,-401.014646522,-372.471772148
"""


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")


def numbered(number: int) -> str:
    return METHANE.replace("gdb 1\t", f"gdb {number}\t")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A tar.bz2 like the published one, of molecules 57 to 59; 58 is uncharacterised."""
    path = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as tar:
        for number in (57, 58, 59):
            content = numbered(number).encode()
            member = tarfile.TarInfo(f"dsgdb9nsd_{number:06d}.xyz")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def methane(tmp_path: Path):
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(METHANE)
    source = open_source("qm9", tmp_path, {})
    return source.convert(*next(source.records()))


def test_xyz_positions_with_mathematica_exponents(methane):
    assert methane.pos[1].tolist() == [2.150416e-3, -0.0060313176, 0.0019761204]


def test_xyz_properties_are_in_the_units_of_the_targets(methane):
    assert (methane.targets["mu"], methane.targets["gap"]) == (0.0, pytest.approx(13.7363, abs=1e-4))


def test_atomisation_energies_are_those_that_moleculenet_publishes(methane):
    kcal = [methane.targets[f"{name}_atom"] * 23.060548 for name in ("u0", "u298", "h298", "g298")]
    published = [float(cell) for cell in SDF_TABLE.split(",")[-4:]]
    assert kcal == pytest.approx(published, abs=1e-2)


def test_archive_leaves_out_the_uncharacterised_by_number_not_by_place(archive):
    assert [id for id, _ in open_source("qm9", archive, {}).records()] == ["gdb_57", "gdb_59"]


def test_archive_keeps_the_uncharacterised_on_demand(archive):
    source = open_source("qm9", archive, {"keep_uncharacterized": "true"})
    assert [id for id, _ in source.records()] == ["gdb_57", "gdb_58", "gdb_59"]


def test_list_of_the_user_replaces_the_shipped_one(archive):
    (archive.parent / "mine.txt").write_text("57\n")
    source = open_source("qm9", archive, {"uncharacterized": "mine.txt"})
    assert [id for id, _ in source.records()] == ["gdb_58", "gdb_59"]


def test_list_in_the_format_of_qm9_is_read_without_header_and_footer(tmp_path):
    listed = tmp_path / "uncharacterized.txt"
    listed.write_text(
        "\n\nGiven are the indices\n====\n#   Index   SMILES\n====\n  58   NC(=N)C#N   6.0\n  61   C   5.6\n==\n"
    )
    assert qm9_files.uncharacterized(listed) == {58, 61}


def test_list_that_counts_from_zero_is_refused(tmp_path):
    """dimenet issue 24: a list shifted by one drops 3,054 good molecules and keeps 3,054 bad ones."""
    shifted = tmp_path / "uncharacterized.txt"
    shifted.write_text("\n".join(str(number - 1) for number in sorted(qm9_files.uncharacterized(None))))
    with pytest.raises(InputError, match="counts molecules from 0"):
        qm9_files.uncharacterized(shifted)


def test_shipped_list_has_the_published_length_and_ends():
    listed = qm9_files.uncharacterized(None)
    assert (len(listed), min(listed), max(listed)) == (3054, 58, 133866)


def test_file_that_is_no_molecule_of_qm9_is_refused(tmp_path):
    (tmp_path / "water.xyz").write_text("3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n")
    with pytest.raises(InputError, match="water.xyz.*gdb N"):
        list(open_source("qm9", tmp_path, {}).records())


def test_damaged_record_ends_one_molecule(tmp_path):
    (tmp_path / "1.xyz").write_text(METHANE.replace("1.4637511618", "?"))
    source = open_source("qm9", tmp_path, {})
    with pytest.raises(RejectedError, match="could not convert string to float"):
        source.convert(*next(source.records()))


def test_truncated_archive_is_an_input_error(archive):
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read"):
        list(open_source("qm9", archive, {}).records())


def test_sdf_and_its_table_give_the_same_targets_as_xyz(tmp_path, methane):
    (tmp_path / "gdb9.sdf").write_text(SDF)
    (tmp_path / "gdb9.sdf.csv").write_text(SDF_TABLE)
    source = open_source("qm9", tmp_path, {})
    assert source.convert(*next(source.records())).targets == methane.targets


def test_sdf_out_of_step_with_its_table_is_refused(tmp_path):
    (tmp_path / "gdb9.sdf").write_text(SDF.replace("gdb_1\n", "gdb_2\n"))
    (tmp_path / "gdb9.sdf.csv").write_text(SDF_TABLE)
    with pytest.raises(InputError, match="'gdb_2' where gdb9.sdf.csv has 'gdb_1'"):
        list(open_source("qm9", tmp_path, {}).records())


def test_processed_file_of_pyg_gives_the_same_targets_in_float32(tmp_path, methane):
    torch = pytest.importorskip("torch")
    geometric = pytest.importorskip("torch_geometric.data")
    hartree, kcal = 27.211386246, 0.04336414
    cells = [float(cell) for cell in SDF_TABLE.splitlines()[1].split(",")[1:]]
    factors = [1, 1, 1, 1, 1, *[hartree] * 3, 1, *[hartree] * 5, 1, *[kcal] * 4]
    y = [cell * factor for cell, factor in zip(cells, factors, strict=True)]
    entry = {"z": torch.tensor([6, 1, 1, 1, 1]), "pos": torch.tensor(methane.pos, dtype=torch.float32)}
    molecule = geometric.Data(**entry, y=torch.tensor([y[3:] + y[:3]]), name="gdb_1", idx=0)
    geometric.InMemoryDataset.save([molecule, molecule], str(tmp_path / "data_v3.pt"))
    source = open_source("qm9", tmp_path / "data_v3.pt", {})
    assert source.convert(*next(source.records())).targets == pytest.approx(methane.targets, rel=1e-6, abs=1e-3)


def test_pickled_file_is_refused_without_running_it(tmp_path):
    (tmp_path / "data_v3.pt").write_bytes(pickle.dumps({"z": Path("x")}))
    with pytest.raises(InputError, match="read its raw folder"):
        list(open_source("qm9", tmp_path / "data_v3.pt", {}).records())


def test_qm9pack_holds_all_but_the_uncharacterised():
    installed("qm9pack")
    ids = {id for id, _ in open_source("qm9", None, {}).records()}
    left_out = {f"gdb_{number}" for number in qm9_files.uncharacterized(None)}
    assert ids == {f"gdb_{number}" for number in range(1, 133_886)} - left_out


def test_qm9pack_gives_the_same_methane_as_xyz(methane):
    installed("qm9pack")
    source = open_source("qm9", None, {})
    assert source.convert(*next(source.records())).targets == methane.targets


def test_qm9pack_cannot_keep_what_it_does_not_hold():
    installed("qm9pack")
    with pytest.raises(InputError, match="does not hold the uncharacterised"):
        open_source("qm9", None, {"keep_uncharacterized": "true"})
