"""Structures in files: one's own, hypothetical MOFs and CoRE MOF."""

import importlib.metadata
import io
import math
import tarfile
import zipfile
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.collections import g2

from hpc_kit.data.command import summary
from hpc_kit.data.inspect import info
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.sources import open_source
from hpc_kit.data.sources.atoms import atomic_numbers
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def read(source) -> tuple[dict, dict]:
    """Return (id -> structure, id -> reason of its rejection)."""
    kept, rejected = {}, {}
    for id, raw in source.records():
        try:
            kept[id] = source.convert(id, raw)
        except RejectedError as error:
            rejected[id] = str(error)
    return kept, rejected


def cif(atoms: Atoms) -> bytes:
    file = io.BytesIO()
    ase.io.write(file, atoms, format="cif")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three crystals as CIF files."""
    for name in ("Cu", "Si", "Fe"):
        (tmp_path / f"{name}.cif").write_bytes(cif(bulk(name, cubic=True)))
    return tmp_path


# Your own files with a table


def test_table_written_by_a_spreadsheet_is_read(folder):
    """A byte order mark, semicolons and file names with their suffix."""
    (folder / "gaps.csv").write_text("﻿name;gap;note\nCu.cif;0;\nSi.cif;1.1;\nFe.cif;n/a;\n", encoding="utf-8")
    source = open_source("files", folder, {"csv": "gaps.csv", "columns": "gap", "units": "gap:eV"})
    kept, _ = read(source)
    assert source.targets["gap"].unit == "eV" and math.isnan(kept["Fe"].targets["gap"])
    assert (kept["Cu"].targets["gap"], kept["Si"].targets["gap"]) == (0.0, 1.1)


def test_files_without_rows_and_rows_without_files_are_told(folder):
    (folder / "gaps.csv").write_text("name,gap\nCu,0\nSi,1.1\nGe,0.7\n")
    kept, rejected = read(open_source("files", folder, {"csv": "gaps.csv"}))
    assert set(kept) == {"Cu", "Si"}
    assert rejected == {"Fe": "no row in gaps.csv", "Ge": "no structure for this row of gaps.csv"}


def test_text_in_a_target_column_rejects_its_structure(folder):
    (folder / "gaps.csv").write_text("name,gap\nCu,0\nSi,about 1\nFe,0\n")
    _, rejected = read(open_source("files", folder, {"csv": "gaps.csv"}))
    assert rejected == {"Si": "target 'gap': 'about 1' is not a number"}


def test_two_rows_of_one_id_reject_it(folder):
    (folder / "gaps.csv").write_text("name,gap\nCu,0\nSi,1\nFe,0\nSi,2\n")
    _, rejected = read(open_source("files", folder, {"csv": "gaps.csv"}))
    assert rejected == {"Si": "more than one row in gaps.csv"}


def test_missing_column_names_the_nearest(folder):
    (folder / "gaps.csv").write_text("name,bandgap\nCu,0\n")
    with pytest.raises(InputError, match="no column 'band_gap'; did you mean 'bandgap'"):
        open_source("files", folder, {"csv": "gaps.csv", "columns": "band_gap"})


def test_column_of_text_is_no_target_by_default(folder):
    (folder / "gaps.csv").write_text("name,formula,gap\nCu,Cu4,0\n")
    with pytest.raises(InputError, match="column 'formula' holds text; name the targets, such as gap"):
        open_source("files", folder, {"csv": "gaps.csv"})


def test_table_without_a_header_must_be_called_so(folder):
    (folder / "id_prop.csv").write_text("Cu.cif,0.0\nSi.cif,1.1\n")
    with pytest.raises(InputError, match="say header=false"):
        open_source("files", folder, {"csv": "id_prop.csv"})


def test_folder_as_alignn_wants_it_is_read():
    if not (SHARED / "jarvis_sample").is_dir():
        pytest.skip("shared/data/jarvis_sample is not beside this repository")
    options = {"csv": "id_prop.csv", "header": "false", "columns": "gap"}
    kept, _ = read(open_source("files", SHARED / "jarvis_sample", options))
    assert len(kept) == 50 and kept["POSCAR-JVASP-98550"].targets == {"gap": 1.517}


# Your own files with what they carry


@pytest.fixture
def labelled(tmp_path: Path) -> list[Atoms]:
    """G2 molecules with an energy and forces from a calculator and a number of their own."""
    found = [molecule(name) for name in g2.names[:5]]
    for i, atoms in enumerate(found):
        atoms.calc = SinglePointCalculator(atoms, energy=-float(i), forces=np.full((len(atoms), 3), 0.5))
        atoms.info = {"charge": i, "label": f"molecule {i}"}
    return found


def test_frames_of_an_extxyz_file_carry_targets_and_forces(tmp_path, labelled):
    ase.io.write(tmp_path / "g2.extxyz", labelled)
    source = open_source("files", tmp_path / "g2.extxyz", {})
    kept, _ = read(source)
    assert list(kept) == [f"g2_{i:06d}" for i in range(5)] and source.targets["energy"].unit == "eV"
    assert kept["g2_000003"].targets == {"charge": 3.0, "energy": -3.0}
    assert (kept["g2_000003"].forces == 0.5).all()


def frames(*columns: str) -> str:
    """Frames of hydrogen with the columns of atoms named, and an energy under a name of others."""
    text = ""
    for i, column in enumerate(columns):
        properties = "species:S:1:pos:R:3" + (f":{column}:R:3" if column else "")
        forces = " 0 0 1" if column else ""
        text += f'2\nProperties={properties} REF_energy={-i}.5 stress="1 2 3 4 5 6 7 8 9"\n'
        text += f"H 0 0 0{forces}\nD 0 0 {0.7 + i / 100}{forces}\n"
    return text


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Five frames, of which the first and the last have no forces."""
    path = tmp_path / "mixed.extxyz"
    path.write_text(frames("", *["REF_forces"] * 3, ""))
    return path


def test_options_name_the_columns_of_energy_and_forces(mixed):
    source = open_source("files", mixed, {"energy": "REF_energy", "forces": "REF_forces"})
    kept, _ = read(source)
    assert source.targets["energy"].unit == "eV" and list(source.targets) == ["energy"]
    assert kept["mixed_000003"].targets == {"energy": -3.5} and (kept["mixed_000003"].forces == [0, 0, 1]).all()
    assert kept["mixed_000000"].forces is None and kept["mixed_000003"].left_out == ("stress (per frame)",)


def test_columns_that_are_not_taken_are_listed_once(mixed, tmp_path):
    made = prepare(open_source("files", mixed, {}), tmp_path / "set", Settings(Graph(cutoff=2.0)), workers=0)
    assert made.left_out == ["REF_forces (per atom)", "stress (per frame)"] and made.with_forces == 0
    assert "left out: REF_forces (per atom), stress (per frame)" in summary(tmp_path / "set", made)
    assert "carried REF_forces (per atom): prepare it anew with --option forces=NAME" in made.without_forces()


def test_frames_without_forces_are_counted_and_can_be_left_out(mixed, tmp_path):
    named = {"energy": "REF_energy", "forces": "REF_forces"}
    settings = Settings(Graph(cutoff=2.0))
    some = prepare(open_source("files", mixed, named), tmp_path / "some", settings, workers=0)
    assert "has forces for 3 of its 5 graphs, 2 lack them" in some.without_forces()
    assert "--option forces_only=true" in summary(tmp_path / "some", some)
    assert info(tmp_path / "some")["per_atom"] == {"element": 5, "position": 5, "forces": 3}
    whole = prepare(open_source("files", mixed, named | {"forces_only": "true"}), tmp_path / "w", settings, workers=0)
    assert (whole.graphs, whole.rejected, whole.without_forces()) == (3, 2, "")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"forces": "dft_forces"}, "no column 'dft_forces' of forces; they carry REF_forces: name one with forces="),
        ({"forces_only": "true"}, "no column 'forces' of forces; they carry REF_forces"),
        ({"energy": "REF_enrgy"}, "carry no such number; did you mean 'REF_energy'"),
    ],
)
def test_column_that_no_structure_carries_is_an_input_error(mixed, options, reason):
    with pytest.raises(InputError, match=reason):
        open_source("files", mixed, options)


@pytest.mark.parametrize("name", ["D", "T", "H1", "H+"])
def test_hydrogen_is_read_under_all_its_names_from_xyz_poscar_and_json(tmp_path, name):
    (tmp_path / "a.xyz").write_text(f"2\n\n{name} 0 0 0\nO 0 0 1\n")
    (tmp_path / "b.vasp").write_text(f"x\n1\n4 0 0\n0 4 0\n0 0 4\n{name} O\n1 1\nDirect\n0 0 0\n0 0 .25\n")
    kept, rejected = read(open_source("files", tmp_path, {}))
    assert rejected == {} and all(structure.z.tolist() == [1, 8] for structure in kept.values())
    assert atomic_numbers([name]).tolist() == [1]


def test_mixed_site_of_an_xyz_file_is_refused_as_one_of_a_cif_file(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nCu0.6Al0.4 0 0 0\n")
    (tmp_path / "b.xyz").write_text("1\n\nH 0 0 0\n")
    assert "is not one element" in read(open_source("files", tmp_path, {}))[1]["a"]


def test_energy_that_the_first_frame_lacks_is_a_target(tmp_path):
    (tmp_path / "a.xyz").write_text("1\nProperties=species:S:1:pos:R:3\nH 0 0 0\n1\nenergy=2.0\nH 0 0 0\n")
    kept, _ = read(open_source("files", tmp_path / "a.xyz", {}))
    assert math.isnan(kept["a_000000"].targets["energy"]) and kept["a_000001"].targets["energy"] == 2.0


def test_atom_of_a_pdb_file_that_is_there_in_part_is_refused(tmp_path):
    line = "ATOM      1  C   MOL     1       0.000   0.000   0.000  {:.2f}  0.00           C\nEND\n"
    for name, occupancy in (("whole", 1), ("unset", 0), ("half", 0.5)):
        (tmp_path / f"{name}.pdb").write_text(line.format(occupancy))
    kept, rejected = read(open_source("files", tmp_path, {}))
    assert set(kept) == {"whole", "unset"} and rejected == {"half": "partial occupancy: an atom is occupied to 0.5"}


def test_rows_of_an_ase_database_carry_targets(tmp_path, labelled):
    with ase.db.connect(tmp_path / "g2.db") as database:
        for i, atoms in enumerate(labelled):
            database.write(atoms, barrier=i / 10)
    kept, _ = read(open_source("files", tmp_path / "g2.db", {"columns": "barrier,energy"}))
    assert kept["g2_000002"].targets == {"barrier": 0.1, "energy": -1.0}


def test_only_frame_of_a_file_bears_its_name(tmp_path):
    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    kept, _ = read(open_source("files", tmp_path, {}))
    assert list(kept) == ["water"]


def test_number_that_the_structures_do_not_carry_is_an_input_error(tmp_path, labelled):
    ase.io.write(tmp_path / "g2.extxyz", labelled)
    with pytest.raises(InputError, match="carry no number 'enrgy'; did you mean 'energy'"):
        open_source("files", tmp_path / "g2.extxyz", {"columns": "enrgy"})


def test_damaged_file_ends_only_itself(tmp_path, labelled):
    ase.io.write(tmp_path / "a.extxyz", labelled[0])
    (tmp_path / "b.extxyz").write_text("5\nends early\nH 0 0 0\n")
    kept, rejected = read(open_source("files", tmp_path, {}))
    assert list(kept) == ["a"] and "ends within frame 0" in rejected["b"]


def test_list_of_files_is_read_in_its_order(folder):
    (folder / "chosen.txt").write_text("Si.cif\nCu.cif\nGe.cif\n")
    kept, rejected = read(open_source("files", folder / "chosen.txt", {}))
    assert list(kept) == ["Si", "Cu"] and "does not exist" in rejected["Ge"]


def test_empty_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="holds no structures"):
        open_source("files", tmp_path, {})


# Hypothetical MOFs


def test_hmof_zip_with_its_table(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "hmof.zip", "w") as archive:
        for file in sorted(folder.glob("*.cif")):
            archive.write(file, f"cifs/{file.name}")
    (tmp_path / "co2.csv").write_text("MOF,n_atoms,wc\nCu,4,1.5\nSi.cif,8,2.5\nhMOF-1,9,3.5\n")
    source = open_source("hmof", tmp_path / "hmof.zip", {"csv": "co2.csv", "column": "wc"})
    kept, rejected = read(source)
    assert {id: s.targets["co2_working_capacity"] for id, s in kept.items()} == {"Cu": 1.5, "Si": 2.5}
    assert rejected == {"Fe": "no row in co2.csv", "hMOF-1": "no CIF file for this row of co2.csv"}


def test_hmof_asks_which_column(folder):
    (folder / "co2.csv").write_text("MOF,wc_2.5,wc_0.1\nCu,1,2\n")
    with pytest.raises(InputError, match="give column= one of wc_2.5, wc_0.1"):
        open_source("hmof", folder, {"csv": "co2.csv"})


# CoRE MOF


def test_core_mof_from_the_folder_of_the_package(tmp_path):
    header = (
        "filename,LCD,PLD,LFPD,cm3_g,ASA_m2_cm3,ASA_m2_g,NASA_m2_cm3,NASA_m2_g,AV_VF,AV_cm3_g,NAV_cm3_g,All_Metals"
    )
    (tmp_path / "2019-FSR.csv").write_text(
        header + "\nX_freeONLY,10.8,3.7,10.2,0.88,1701,1924,0,0,0.64,0.73,8.1E-05,Cu\n"
    )
    content = cif(bulk("Cu", cubic=True))
    with tarfile.open(tmp_path / "2019-FSR.tar.xz", "w:xz") as tar:
        member = tarfile.TarInfo("X_freeONLY.cif")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    kept, _ = read(open_source("core_mof", tmp_path, {"set": "FSR"}))
    targets = kept["X_freeONLY"].targets
    assert (targets["lcd"], targets["density"], targets["nav_cm3_g"]) == (10.8, 0.88, 8.1e-5)


def test_core_mof_package_holds_a_row_for_each_of_its_12020_structures():
    try:
        importlib.metadata.version("core-mof")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("core-mof is not installed: pip install --no-deps core-mof")
    records = open_source("core_mof", None, {}).records()
    assert sum(content is not None and bool(row) for _, (content, row) in records) == 12_020


def test_core_mof_unknown_set_is_refused():
    with pytest.raises(InputError, match="allowed: ASR, FSR, 2014"):
        open_source("core_mof", None, {"set": "ars"})
