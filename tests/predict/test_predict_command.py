"""`hpc_kit predict`: what it writes, by the file's ending, what it says, and what it refuses."""

import csv
import json
import os
import subprocess
import sys

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from some_graphs import rattled

from hpc_kit import cli
from hpc_kit.predict.predictor import Predictor


@pytest.fixture
def hpc_kit_predict(tmp_path, monkeypatch, capsys):
    """Return what calls the command in this process: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hpc_kit", "predict", *map(str, arguments), "--workers", "0"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def three(tmp_path):
    """A file of water with known values, copper, and a structure that is refused."""
    known = rattled(molecule("H2O"), 1)
    known.info["energy"] = -3.5
    known.arrays["forces"] = np.zeros((3, 3))
    path = tmp_path / "three.extxyz"
    ase.io.write(path, [known, rattled(bulk("Cu", cubic=True), 2), molecule("SO2")])
    return path


def test_each_form_holds_the_same_predictions(hpc_kit_predict, energy_run, three, tmp_path):
    found = Predictor.load(energy_run.path).predict(three)
    for ending in ("csv", "jsonl", "h5", "extxyz"):
        code, _, errors = hpc_kit_predict(energy_run.path, three, "--out", f"out.{ending}")
        assert code == 0, errors

    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(rows[0]) == ["id", "energy [eV]", "energy std [eV]", "energy true [eV]", "unseen elements"]
    assert [row["id"] for row in rows] == found.ids == ["three_000000", "three_000001"]
    assert [float(row["energy [eV]"]) for row in rows] == pytest.approx(found["energy"].tolist(), rel=1e-6)
    assert [row["energy true [eV]"] for row in rows] == ["-3.5", ""]

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["energy"]["true"] == -3.5 and "true" not in lines[1]["energy"]
    assert lines[1]["energy"]["unit"] == "eV" and lines[1]["forces"]["unit"] == "eV/Angstrom"
    assert lines[1]["energy"]["std"] == pytest.approx(found.std[1, 0], rel=1e-4)
    np.testing.assert_allclose(lines[1]["forces"]["value"], found.forces[3:], atol=1e-6)

    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["predictions/energy"], found["energy"], rtol=1e-6)
        np.testing.assert_allclose(file["predictions/forces"], found.forces, atol=1e-6)
        assert file["atom_ptr"][:].tolist() == [0, 3, 7] and file["z"][:].tolist() == [8, 1, 1, 29, 29, 29, 29]
        assert file["ids"].asstr()[:].tolist() == found.ids and file["predictions/energy"].attrs["unit"] == "eV"

    frames = ase.io.read(tmp_path / "out.extxyz", index=":")
    assert [atoms.get_potential_energy() for atoms in frames] == pytest.approx(found["energy"].tolist(), rel=1e-6)
    np.testing.assert_allclose(frames[1].get_forces(), found.forces[3:], atol=1e-6)
    assert frames[1].pbc.all() and frames[0].info["id"] == "three_000000"


def test_errors_and_rejects_are_told(hpc_kit_predict, energy_run, three, tmp_path):
    code, out, _ = hpc_kit_predict(energy_run.path, three, "--out", "out.csv")
    found = Predictor.load(energy_run.path).predict(three)
    error = abs(found["energy"][0] + 3.5) * 1000
    assert code == 0 and f"energy: MAE {error:.4g} meV" in out and "over the 1 true values" in out
    assert f"forces: MAE {np.abs(found.forces[:3]).mean() * 1000:.4g} meV/Å" in out
    assert "1 not predicted: 1 x holds S, which the training never saw" in out
    assert "out.csv: 2 structures, by 2 x schnet of" in out and "on cpu" in out
    reject = json.loads((tmp_path / "out.csv.rejects.jsonl").read_text())
    assert reject["id"] == "three_000002"


def test_unseen_elements_are_marked_in_each_row(hpc_kit_predict, energy_run, three, tmp_path):
    code, out, _ = hpc_kit_predict(energy_run.path, three, "--out", "out.csv", "--allow-unseen", "--no-forces")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert code == 0 and [row["unseen elements"] for row in rows] == ["", "", "S"]
    assert "1 hold elements that the training never saw" in out
    assert not (tmp_path / "out.csv.rejects.jsonl").exists()


def test_smiles_become_structures_and_each_row_says_so(hpc_kit_predict, energy_run, tmp_path):
    (tmp_path / "m.csv").write_text("name,smiles,energy\nethanol,CCO,-1.5\nbad,C1CC,\n,N,\n")
    code, out, _ = hpc_kit_predict(energy_run.path, "m.csv", "--out", "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert code == 0, out
    assert [row["id"] for row in rows] == ["ethanol", "row_000003"]
    assert all(row["structure"].startswith("3-D by RDKit 20") for row in rows)
    assert rows[0]["energy true [eV]"] == "-1.5"
    assert "'C1CC' is not a SMILES that RDKit reads" in (tmp_path / "out.csv.rejects.jsonl").read_text()


def test_several_files_of_one_name_keep_their_folders_in_their_ids(hpc_kit_predict, energy_run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ase.io.write(tmp_path / name / "POSCAR", bulk("Cu", cubic=True), format="vasp")
    ase.io.write(tmp_path / "cu.cif", bulk("Cu", cubic=True))
    assert hpc_kit_predict(energy_run.path, "a/POSCAR", "b/POSCAR", "cu.cif", "--out", "o.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert [row["id"] for row in rows] == ["a/POSCAR", "b/POSCAR", "cu"]
    assert len({row["energy [eV]"] for row in rows}) <= 2  # float32 positions of a file's digits


def refused(tmp_path):
    """What is asked of the command -> what it says, in a folder with some of it."""
    (tmp_path / "there.csv").write_text("kept")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "empty.extxyz").write_text("")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    ase.io.write(tmp_path / "nan.extxyz", Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]))
    ase.io.write(tmp_path / "so2.extxyz", molecule("SO2"))
    return {
        "there.csv: exists; --force replaces it": ["water.extxyz", "--out", "there.csv"],
        "folder.csv: is a folder": ["water.extxyz", "--out", "folder.csv"],
        "no such folder to write o.csv into": ["water.extxyz", "--out", "gone/o.csv"],
        "closed: cannot be written": ["water.extxyz", "--out", "closed/o.csv"],
        "o.pdf: its ending says how predictions are written": ["water.extxyz", "--out", "o.pdf"],
        "gone.cif: no such file": ["gone.cif", "--out", "o.csv"],
        "nothing: holds no structures": ["nothing", "--out", "o.csv"],
        "the file is empty": ["empty.extxyz", "--out", "o.csv"],
        "nan: a position or cell vector is NaN": ["nan.extxyz", "--out", "o.csv"],
        "holds S, which the training never saw": ["so2.extxyz", "--out", "o.csv"],
        "--batch: must be at least 1": ["water.extxyz", "--out", "o.csv", "--batch", "0"],
        "device 'gpu': must be cpu, cuda or cuda:N": ["water.extxyz", "--out", "o.csv", "--device", "gpu"],
    }


def test_wrong_input_is_one_or_two_lines_and_leaves_nothing_behind(hpc_kit_predict, energy_run, tmp_path):
    ase.io.write(tmp_path / "water.extxyz", molecule("H2O"))
    asked = refused(tmp_path)
    if os.access(tmp_path / "closed", os.W_OK):  # root writes anywhere
        del asked["closed: cannot be written"]
    before = sorted(tmp_path.rglob("*"))
    for message, arguments in asked.items():
        code, out, errors = hpc_kit_predict(energy_run.path, *arguments)
        assert code == 2 and out == "" and message in errors and len(errors.splitlines()) <= 2, errors
    code, _, errors = hpc_kit_predict("bad.pt", "water.extxyz", "--out", "o.csv")
    assert code == 2 and "bad.pt: is no whole checkpoint of hpc_kit" in errors and len(errors.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.csv").read_text() == "kept"
    assert hpc_kit_predict(energy_run.path, "water.extxyz", "--out", "there.csv", "--force")[0] == 0


def test_predicting_does_not_load_the_compiler_of_torch():
    code = "import sys, hpc_kit.predict.output, hpc_kit.models.cgcnn; print('torch._dynamo' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout == "False\n", out.stderr


FULL = """
import subprocess, sys
from pathlib import Path
from hpc_kit.predict.command import predict_to
from hpc_kit.spec.errors import WorkError

best, given, disk = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=True)
for ending in ("csv", "jsonl", "h5", "extxyz"):
    try:
        predict_to(best, [given], disk / f"out.{ending}", forces=True, workers=0)
    except WorkError as error:
        print(error, [path.name for path in disk.iterdir()])
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="this machine does not let its users mount a small disk to fill",
)
def test_full_disk_is_one_line_and_leaves_nothing_half_written(energy_run, tmp_path):
    ase.io.write(tmp_path / "many.extxyz", [rattled(molecule("CH3CH2OH"), seed) for seed in range(2000)])
    (tmp_path / "disk").mkdir()
    best = energy_run.task(energy_run.read_plan().tasks[0].id).best
    arguments = [sys.executable, "-c", FULL, best, tmp_path / "many.extxyz", tmp_path / "disk"]
    out = subprocess.run(["unshare", "-rm", *arguments], capture_output=True, text=True, timeout=120)
    for ending, line in zip(("csv", "jsonl", "h5", "extxyz"), out.stdout.splitlines(), strict=True):
        assert f"disk/out.{ending}: not written: " in line and line.endswith("[]"), line
    assert out.stderr == ""
