"""Tables of a run and submissions to the leaderboard: what was recorded, complete, in plain forms."""

import csv
import json
import zipfile

import h5py
import numpy as np
import pandas
import pytest
from conftest import ListSource, hpc_kit, probe_run, small_run

import hpc_kit as package
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.structures import Structure
from hpc_kit.report.export import write_tables
from hpc_kit.report.leaderboard import Submitter, write_submission
from hpc_kit.runs.records import read_lines
from hpc_kit.runs.rows import TABLES
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.task import run_task

WHO = Submitter("a team", "one@example.org", "https://example.org/work")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two cells of a grid with one seed each, the first of which is done."""
    run = small_run(
        tmp_path_factory.mktemp("trained") / "run",
        "seeds=[3]",
        "grid={train.epochs: [2, 1]}",
        "data.target=[zpve, homo]",
    )
    run_task(run.task(run.read_plan().tasks[0].id).path)
    return run


def table(folder, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_what_the_records_hold(trained, tmp_path):
    counts = write_tables(trained, tmp_path, force=False)
    first, second = trained.read_plan().tasks
    assert counts == {"tasks": 2, "epochs": 2, "metrics": 2, "predictions": 2 * 40}
    assert [(row["task"], row["train.epochs"], row["seed"]) for row in table(tmp_path, "tasks")] == [
        (first.id, "2", "3"),
        (second.id, "1", "3"),
    ]
    lines = read_lines(trained.task(first.id).epochs)
    assert [float(row["train_loss"]) for row in table(tmp_path, "epochs")] == [line["train_loss"] for line in lines]
    assert [float(row["val_mae_homo"]) for row in table(tmp_path, "epochs")] == [
        line["val_maes"]["homo"] for line in lines
    ]
    metrics = json.loads(trained.task(first.id).metrics.read_text())["targets"]
    assert {row["target"]: float(row["test_mae"]) for row in table(tmp_path, "metrics")} == {
        name: errors["test_mae"] for name, errors in metrics.items()
    }
    rows = [row for row in table(tmp_path, "predictions") if row["target"] == "homo"]
    with h5py.File(trained.task(first.id).predictions) as file:
        assert [row["id"] for row in rows] == [id.decode() for id in file["ids"]]
        assert [float(row["predicted"]) for row in rows] == file["predictions/homo"][:].tolist()
        assert [float(row["true"]) for row in rows] == file["targets/homo"][:].tolist()


def test_read_run_gives_the_same_as_frames(trained):
    run = package.read_run(trained.path)
    assert isinstance(run.epochs(), pandas.DataFrame)
    assert run.epochs()["epoch"].tolist() == [0, 1]
    assert (run.metrics().set_index("target")["test_mae"] > 0).all()
    assert len(run.predictions()) == 80 and len(run.forces()) == 0
    assert run.tasks()["state"].tolist() == ["done", "planned"]


def test_an_atom_is_a_row_where_forces_are_predicted(trained, tmp_path):
    task = trained.read_plan().tasks[0]
    copy = small_run(tmp_path / "run", "seeds=[3]", "grid={train.epochs: [2, 1]}", "data.target=[zpve, homo]")
    folder = copy.task(task.id)
    folder.metrics.write_text(json.dumps({"targets": {"energy": {"test_mae": 1.0}, "forces": {"test_mae": 2.0}}}))
    with h5py.File(folder.predictions, "w") as file:
        file["ids"], file["z"], file["atom_ptr"] = [b"a", b"b"], [8, 1, 1], [0, 1, 3]
        for kind, shift in (("targets", 0.0), ("predictions", 0.5)):
            file[f"{kind}/forces"] = [[i + shift] * 3 for i in range(3)]
            file[f"{kind}/energy"] = [1.0, 2.0]
            file[f"{kind}/energy"].attrs["unit"] = "eV"
    folder.write_done(2)
    rows = list(TABLES["forces"](copy, copy.read_plan()))
    assert [(row["id"], row["atom"], row["z"]) for row in rows] == [("a", 0, 8), ("b", 0, 1), ("b", 1, 1)]
    assert [(row["true_x"], row["predicted_z"]) for row in rows] == [(0.0, 0.5), (1.0, 1.5), (2.0, 2.5)]


def test_what_is_there_is_kept_unless_forced(trained, tmp_path):
    write_tables(trained, tmp_path, force=False)
    (tmp_path / "epochs.csv").write_text("mine")
    with pytest.raises(InputError, match="tasks.csv: exists; --force writes it anew"):
        write_tables(trained, tmp_path, force=False)
    write_tables(trained, tmp_path, force=True)
    assert len(table(tmp_path, "epochs")) == 2


def test_a_run_without_trainings_has_its_tasks_alone(tmp_path):
    assert write_tables(probe_run(tmp_path / "run"), tmp_path / "out", force=False) == {"tasks": 1}


def on_published_split(tmp_path, last_gap: float):
    """Train on six made crystals whose published split tests on the last two."""
    gaps = [0.0, 0.2, 0.4, 0.6, 0.8, last_gap]
    ids = [f"JVASP-{i}" for i in range(6)]
    cells = [np.eye(3) * (4 + gap / 2) for gap in gaps[:-1]] + [np.eye(3) * 4.5]
    atom, where, periodic = np.array([14], np.uint8), np.zeros((1, 3)), np.ones(3, bool)
    source = ListSource(
        [
            Structure(id, atom, where, {"gap": gap}, cell, periodic)
            for id, gap, cell in zip(ids, gaps, cells, strict=True)
        ],
        gap="eV",
    )
    source.splits = {"leaderboard": {"train": ids[:3], "val": [ids[3]], "test": ids[4:]}}
    prepare(source, tmp_path / "set", Settings(Graph(cutoff=5.0)))
    run = small_run(
        tmp_path / "run", "seeds=[7]", f"data={{source: shards, path: {tmp_path}/set, target: gap}}",
        "data.split={published: leaderboard}", "train.epochs=1",
    )  # fmt: skip
    run_task(run.task(run.read_plan().tasks[0].id).path)
    return run


def test_a_submission_has_all_that_the_leaderboard_checks(tmp_path):
    run = on_published_split(tmp_path, 1.0)
    (folder,) = write_submission(run, tmp_path / "out", WHO, force=False)
    assert folder.name == "quickstart-seed7"
    with zipfile.ZipFile(folder / "AI-SinglePropertyPrediction-gap-dft_3d-test-mae.csv.zip") as archive:
        text = archive.read("AI-SinglePropertyPrediction-gap-dft_3d-test-mae.csv").decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["id"], float(row["target"])) for row in rows] == [("JVASP-4", 0.8), ("JVASP-5", 1.0)]
    predicted = {row["id"]: row["predicted"] for row in TABLES["predictions"](run, run.read_plan())}
    assert {row["id"]: float(row["prediction"]) for row in rows} == predicted
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["team_name"] == "a team" and metadata["author_email"] == "one@example.org"
    assert metadata["time_taken_seconds"] > 0 and metadata["hardware_used"]
    assert (folder / "run.sh").read_text().splitlines()[-1] == "hpc_kit run job.yaml"
    assert (folder / "job.yaml").read_bytes() == run.job_file.read_bytes()


def test_a_test_part_that_is_not_whole_is_no_submission(tmp_path):
    run = on_published_split(tmp_path, float("nan"))
    with pytest.raises(InputError, match="lacks 1 of the 2 structures of the published test part, such as JVASP-5"):
        write_submission(run, tmp_path / "out", WHO, force=False)
    assert not (tmp_path / "out").exists()


def test_a_run_off_the_leaderboards_splits_is_no_submission(trained, tmp_path):
    with pytest.raises(InputError, match="has no finished task on a published split of JARVIS-DFT"):
        write_submission(trained, tmp_path, WHO, force=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what to write"),
        (["--jarvis", "out"], "the leaderboard wants --team, --email with an @, and --project"),
        (["--csv", "/proc/nowhere"], "/proc/nowhere: cannot be made"),
    ],
)
def test_wrong_input_is_a_line(trained, tmp_path, options, message):
    done = hpc_kit("export", trained.path, *options, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
