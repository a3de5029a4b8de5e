"""The registry of sources, and MD17 and JARVIS-DFT as people have them."""

import json
import math
import os
import pickle
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest

from hpc_kit.data.sources import SOURCES, open_source
from hpc_kit.data.structures import RejectedError
from hpc_kit.data.units import KCAL_PER_MOL
from hpc_kit.spec.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"shared/data/{name} is not beside this repository")
    return SHARED / name


def test_unknown_source_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'jarvis'"):
        open_source("jarvs", None, {})


@pytest.mark.parametrize("name", SOURCES)
def test_unknown_option_is_refused_by_every_source(name):
    with pytest.raises(InputError, match="no option 'colour'"):
        open_source(name, None, {"colour": "red"})


def test_missing_path_is_named():
    with pytest.raises(InputError, match="no/where.npz: no such file"):
        open_source("md17", Path("no/where.npz"), {})


# MD17


@pytest.fixture
def md17(tmp_path: Path) -> Path:
    """Two frames of a hydrogen molecule in MD17's own keys."""
    pos = np.array([[[0, 0, 0], [0, 0, 0.74]], [[0, 0, 0], [0, 0, 0.80]]])
    path = tmp_path / "md17_hydrogen.npz"
    np.savez(path, z=np.array([1, 1]), R=pos, E=np.array([[-10.0], [-9.0]]), F=pos * 2)
    return path


def test_md17_ids_count_the_frames_of_the_molecule(md17):
    assert [id for id, _ in open_source("md17", md17, {}).records()] == ["hydrogen_000000", "hydrogen_000001"]


def test_md17_energies_become_ev(md17):
    source = open_source("md17", md17, {})
    energies = [source.convert(*record).targets["energy"] for record in source.records()]
    assert energies == [-10 * KCAL_PER_MOL, -9 * KCAL_PER_MOL]


def test_md17_forces_become_ev_per_angstrom(md17):
    source = open_source("md17", md17, {})
    assert source.convert(*next(source.records())).forces[1, 2] == pytest.approx(1.48 * KCAL_PER_MOL)


def test_md17_with_an_energy_short_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", z=np.ones(1), R=np.ones((2, 1, 3)), E=np.ones(1), F=np.ones((2, 1, 3)))
    with pytest.raises(InputError, match="do not fit"):
        open_source("md17", tmp_path / "x.npz", {})


def test_npz_of_something_else_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "x.npz", weights=np.ones(3))
    with pytest.raises(InputError, match="holds weights"):
        open_source("md17", tmp_path / "x.npz", {})


def test_rmd17_streams_what_numpy_loads():
    path = shared("rmd17_uracil_train_01.npz")
    source = open_source("md17", path, {"molecule": "uracil"})
    forces = np.stack([source.convert(*record).forces for record in source.records()])
    assert np.array_equal(forces, np.load(path)["forces"] * KCAL_PER_MOL)


def test_rmd17_origin_tells_of_the_old_indices():
    source = open_source("md17", shared("rmd17_ethanol_train_01.npz"), {})
    assert "old_indices[i] of MD17" in source.origin["old_indices"]


XYZ = "2\n{comment}\nH 0 0 0 0 0 1\nH 0 0 0.74 0 0 -1\n"


@pytest.mark.parametrize("comment", ["-10.0", "Properties=species:S:1:pos:R:3:forces:R:3 energy=-10.0"])
def test_md17_reads_xyz_with_a_bare_and_with_a_named_energy(tmp_path, comment):
    (tmp_path / "h2.xyz").write_text(XYZ.format(comment=comment))
    source = open_source("md17", tmp_path / "h2.xyz", {"units": "kcal/mol"})
    structure = source.convert(*next(source.records()))
    assert (structure.targets["energy"], structure.forces[0, 2]) == (-10 * KCAL_PER_MOL, KCAL_PER_MOL)


def test_md17_does_not_guess_the_unit_of_an_xyz_file(tmp_path):
    (tmp_path / "h2.xyz").write_text(XYZ.format(comment="-10.0"))
    with pytest.raises(InputError, match="give units=kcal/mol or units=eV"):
        open_source("md17", tmp_path / "h2.xyz", {})


def test_md17_frame_without_forces_is_rejected(tmp_path):
    (tmp_path / "h2.xyz").write_text("2\n-10.0\nH 0 0 0\nH 0 0 0.74\n")
    source = open_source("md17", tmp_path / "h2.xyz", {"units": "eV"})
    with pytest.raises(RejectedError, match="without forces"):
        source.convert(*next(source.records()))


# JARVIS-DFT


def entry(jid: str, **values) -> dict:
    """A record as dft_3d snapshots hold it: cubic silicon."""
    cell = [[2.7, 2.7, 0.0], [0.0, 2.7, 2.7], [2.7, 0.0, 2.7]]
    atoms = {
        "lattice_mat": cell,
        "coords": [[0, 0, 0], [0.25, 0.25, 0.25]],
        "elements": ["Si", "Si"],
        "abc": [3.8] * 3,
    }
    return {"jid": jid, "atoms": atoms | {"angles": [60] * 3, "cartesian": False, "props": ["", ""]}, **values}


def snapshot(folder: Path, *entries: dict) -> Path:
    (folder / "dft_3d.json").write_text(json.dumps(entries))
    return folder / "dft_3d.json"


def test_jarvis_na_is_missing(tmp_path):
    source = open_source("jarvis", snapshot(tmp_path, entry("JVASP-1", slme="na", ehull=0.1)), {})
    targets = source.convert(*next(source.records())).targets
    assert math.isnan(targets["slme"]) and targets["ehull"] == 0.1


def test_jarvis_offers_the_targets_of_its_first_record(tmp_path):
    source = open_source("jarvis", snapshot(tmp_path, entry("JVASP-1", max_efg=1, colour="red")), {})
    assert {name: target.unit for name, target in source.targets.items()} == {"max_efg": "1e21 V/m2"}


def test_jarvis_fractional_and_cartesian_coordinates_agree(tmp_path):
    cartesian = entry("JVASP-2", ehull=0)
    cartesian["atoms"] |= {"coords": [[0, 0, 0], [1.35, 1.35, 1.35]], "cartesian": True}
    source = open_source("jarvis", snapshot(tmp_path, entry("JVASP-1", ehull=0), cartesian), {})
    first, second = (source.convert(*record).pos for record in source.records())
    assert np.allclose(first, second)


def test_jarvis_text_in_a_target_rejects_the_crystal(tmp_path):
    source = open_source("jarvis", snapshot(tmp_path, entry("JVASP-1", ehull="low")), {})
    with pytest.raises(RejectedError, match="'ehull': 'low' is not a number"):
        source.convert(*next(source.records()))


def test_jarvis_unknown_element_rejects_the_crystal(tmp_path):
    bad = entry("JVASP-1", ehull=0)
    bad["atoms"]["elements"] = ["Si", "Xx"]
    source = open_source("jarvis", snapshot(tmp_path, bad), {})
    with pytest.raises(RejectedError, match="unknown element symbol 'Xx'"):
        source.convert(*next(source.records()))


def test_jarvis_reads_the_zip_it_is_published_as(tmp_path):
    plain = snapshot(tmp_path, entry("JVASP-1", ehull=0))
    with zipfile.ZipFile(tmp_path / "dft_3d.json.zip", "w") as archive:
        archive.write(plain, "dft_3d.json")
    source = open_source("jarvis", tmp_path / "dft_3d.json.zip", {})
    assert [id for id, _ in source.records()] == ["JVASP-1"]


def test_jarvis_truncated_file_is_an_input_error(tmp_path):
    path = snapshot(tmp_path, *[entry(f"JVASP-{i}", ehull=0) for i in range(9)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not JSON that can be read to its end"):
        list(open_source("jarvis", path, {}).records())


def test_jarvis_leaderboard_file_becomes_a_split(tmp_path):
    path = snapshot(tmp_path, entry("JVASP-1", slme=1))
    parts = {"train": {"JVASP-1": 1.0, "JVASP-2": 0.0}, "val": {"JVASP-3": 2.0}, "test": {"JVASP-4": 3.5}}
    with zipfile.ZipFile(tmp_path / "dft_3d_slme.json.zip", "w") as archive:
        archive.writestr("dft_3d_slme.json", json.dumps(parts))
    source = open_source("jarvis", path, {"splits": "dft_3d_slme.json.zip"})
    expected = {"train": ["JVASP-1", "JVASP-2"], "val": ["JVASP-3"], "test": ["JVASP-4"]}
    assert source.splits == {"leaderboard": expected}


def test_jarvis_split_does_not_train_on_an_id_that_the_file_also_tests(tmp_path):
    path = snapshot(tmp_path, entry("JVASP-1", slme=1))
    parts = {"train": {"JVASP-1": 1, "JVASP-2": 2}, "val": {}, "test": {"JVASP-1": 1}}
    (tmp_path / "leak.json").write_text(json.dumps(parts))
    source = open_source("jarvis", path, {"splits": "leak.json"})
    assert source.splits["leaderboard"] == {"train": ["JVASP-2"], "val": [], "test": ["JVASP-1"]}


def test_jarvis_real_crystals_survive_the_way_through_json(tmp_path):
    files = sorted(shared("jarvis_sample").glob("POSCAR-*.vasp"))
    crystals = [ase.io.read(file) for file in files]
    entries = [
        entry(f"JVASP-{i}", ehull=0)
        | {
            "atoms": {
                "lattice_mat": crystal.cell.tolist(),
                "coords": crystal.get_scaled_positions(wrap=False).tolist(),
                "elements": crystal.get_chemical_symbols(),
                "cartesian": False,
            }
        }
        for i, crystal in enumerate(crystals)
    ]

    def placed(crystal):  # as jarvis-tools places atoms
        return crystal.get_scaled_positions(wrap=False) @ crystal.cell.array.round(5)

    source = open_source("jarvis", snapshot(tmp_path, *entries), {})
    found = [source.convert(*record) for record in source.records()]
    assert len(found) >= 50 and all(
        np.allclose(structure.pos, placed(crystal))
        and (structure.z == crystal.numbers).all()
        and (structure.z == crystal.numbers).all()
        for structure, crystal in zip(found, crystals, strict=True)
    )


def test_sources_can_be_sent_to_a_worker(tmp_path):
    source = open_source("jarvis", snapshot(tmp_path, entry("JVASP-1", ehull=0.5)), {})
    record = next(source.records())
    sent, raw = pickle.loads(pickle.dumps((source, record)))
    assert sent.convert(*raw).targets == {"ehull": 0.5}


@pytest.mark.parametrize(
    ("source", "options"),
    [("qm9", {}), ("md17", {}), ("jarvis", {}), ("hmof", {"csv": "t.csv"}), ("smiles", {}), ("files", {})],
)
def test_a_pipe_is_refused_where_reading_it_would_never_end(tmp_path, source, options):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(InputError, match=f"x.csv: is no ordinary file; source '{source}' wants"):
        open_source(source, tmp_path / "x.csv", options)
