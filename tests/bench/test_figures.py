"""Figures of studies: vector files whose text is text, the same each time, each beside its numbers."""

import csv
import json

import pytest
from conftest import SHARED_DATA, hpc_kit, small_run
from dft_3d import write_dft_3d
from some_runs import grid_run

from hpc_kit.bench.study_page import sections_of_any
from hpc_kit.plan import make_plan
from hpc_kit.report.page import page
from hpc_kit.runs.create import create_run
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.task import run_task

TINY = "model={name: alignn, hidden: 4, embedding: 4, alignn_layers: 1, gcn_layers: 0, edge_bins: 4, triplet_bins: 4}"
JARVIS_29 = [TINY, "train.epochs=1", "train.batch_size=100", "resources.gpus_per_rank=0", "resources.cpus_per_rank=1"]


def ours(tmp_path):
    return grid_run(
        tmp_path / "run",
        lambda place, seed: 0.1 / float(place[0]) + 0.001 * seed,
        lambda place, seed: float(place[0]) * 1e3 * float(place[1]) + 0.01 * seed,
        failed={"interactions=2 train.learning_rate=0.002": "the loss is nan"},
    )


def test_front_is_drawn_with_units_and_its_numbers_are_those_of_the_command(tmp_path, command):
    run = ours(tmp_path)
    said = command("bench", "pareto", run.path, "--out", tmp_path / "out").stdout
    drawing = (tmp_path / "out/pareto.svg").read_text()
    for text in ("time of an epoch / s", "test MAE / eV", "quickstart: front", ">(1,0.001)<"):
        assert text in drawing, text
    assert (tmp_path / "out/pareto.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "out/pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = json.loads(command("bench", "pareto", run.path, "--json").stdout)
    assert [float(row["test_mae"] or "nan") for row in rows][:3] == [row["test_mae"] for row in told][:3]
    assert (rows[3]["test_mae"], rows[3]["in_front"]) == ("", "") and "the loss is nan" in rows[3]["missing"]
    assert "front: (1,0.001)-(2,0.001)" in said


def test_tables_are_drawn_with_missing_cells_named_and_equal_the_csv(tmp_path, command):
    run = ours(tmp_path)
    words = ("bench", "table", run.path, "--out", tmp_path / "out")
    assert command(*words).returncode == 0
    drawing = (tmp_path / "out/table-quickstart-test_mae.svg").read_text()
    for text in ("model.interactions", "train.learning_rate", "test MAE / eV", ">missing<", ">0.101<"):
        assert text in drawing, text
    with (tmp_path / "out/table.csv").open() as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    told = json.loads(command("bench", "table", run.path, "--json").stdout)
    assert rows == [{key: "" if value is None else str(value) for key, value in row.items()} for row in told]
    again = command(*words)
    assert again.returncode == 2 and "--force" in again.stderr
    assert command(*words, "--force").returncode == 0
    assert (tmp_path / "out/table-quickstart-test_mae.svg").read_text() == drawing


def test_page_of_a_grid_shows_its_study_with_the_missing_cell(tmp_path):
    run = ours(tmp_path)
    [section] = sections_of_any(run, run.read_plan())
    assert "front: (1,0.001)-(2,0.001)" in section.text
    rows = {row[0]: dict(zip(section.columns, row, strict=True)) for row in section.rows}
    assert rows["(2,0.002)"]["test MAE"] == "missing" and "the loss is nan" in rows["(2,0.002)"]["missing"]
    assert rows["(1,0.001)"]["test MAE"].startswith("101 meV (") and rows["(1,0.001)"]["in the front"] == "yes"


def new_run(path, *overrides):
    """Make a run of jobs/jarvis-29.yaml at a tiny size, two seeds, without starting anything."""
    file = load_job("jarvis-29", [*JARVIS_29, "seeds=[0, 1]", *overrides])
    return create_run(path, make_plan(file), file.job, load_site("local"))


@pytest.fixture(scope="module")
def jarvis_run(tmp_path_factory):
    """The 29 tasks at a tiny size on a made-up dft_3d file, two seeds; the tasks of one target are left out."""
    folder = tmp_path_factory.mktemp("jarvis")
    write_dft_3d(folder / "dft_3d_2021.json", 60)
    prepare = ["--path", "dft_3d_2021.json", "--out", "data/jarvis", "--cutoff", "8", "--max-neighbors", "12"]
    done = hpc_kit("data", "prepare", "jarvis", *prepare, "--rule", "alignn", "--workers", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    run = new_run(folder / "run", f"data.path={folder}/data/jarvis")
    for task in run.read_plan().tasks:
        if task.work.data.target != ["max_efg"]:
            run_task(run.task(task.id).path)
    return run


def test_all_29_tasks_of_a_file_with_missing_values_deviate_from_the_published_errors(jarvis_run, tmp_path, command):
    out = command("bench", "deviations", jarvis_run.path, "--json")
    assert out.returncode == 0, out.stderr
    found = {one["target"]: one for one in json.loads(out.stdout)}
    assert len(found) == 29 and sum(one["published"] is not None for one in found.values()) == 29
    for one in (one for one in found.values() if one["target"] != "max_efg"):
        off = [(mae - one["published"]) / one["published"] for mae in one["maes"]]
        assert one["min"] == min(off) and one["max"] == max(off) and one["mean"] == pytest.approx(sum(off) / 2)
        assert one["within"] == (min(one["maes"]) <= one["published"] <= max(one["maes"]))
        assert 0 < one["graphs"] <= 60
    assert found["mbj_bandgap"]["graphs"] < found["formation_energy_peratom"]["graphs"] == 60
    gone = found["max_efg"]
    assert (gone["maes"], gone["mean"]) == ([], None) and gone["missing"][0] == "seed=0: planned"
    told = command("bench", "deviations", jarvis_run.path, "--out", tmp_path / "figure").stdout
    assert "of 28 published values lie within the range of our seeds" in told
    assert "missing: max_efg seed=0: planned" in told
    drawing = (tmp_path / "figure/deviations.svg").read_text()
    for text in ("MAE deviation / %", "structures", "p-type Seebeck"):
        assert text in drawing, text
    with (tmp_path / "figure/deviations.csv").open() as file:
        rows = {row["target"]: row for row in csv.DictReader(file)}
    assert float(rows["slme"]["mean"]) == found["slme"]["mean"] and rows["max_efg"]["mean"] == ""


def test_each_of_the_29_tasks_leaves_its_split_as_identifiers(jarvis_run):
    splits = [json.loads(path.read_text()) for path in jarvis_run.splits.glob("*.json")]
    assert len(splits) > 1 and all(id.startswith("JVASP-") for split in splits for id in split["test"])
    assert {split["left_out_without_target"] for split in splits} > {0}


def test_page_of_the_29_tasks_shows_their_deviations(jarvis_run):
    text = page(jarvis_run)
    assert "Deviation from published errors" in text and "of 28 published values" in text


def test_deviations_of_the_jarvis_sample(tmp_path, command, capfd):
    if not (SHARED_DATA / "jarvis_sample").is_dir():
        pytest.skip("shared/data/jarvis_sample is not beside this repository")
    words = ["--path", SHARED_DATA / "jarvis_sample", "--out", "set", "--cutoff", "8", "--max-neighbors", "12"]
    options = ["csv=id_prop.csv", "header=false", "columns=optb88vdw_bandgap", "units=optb88vdw_bandgap:eV"]
    more = [word for option in options for word in ("--option", option)]
    done = hpc_kit("data", "prepare", "files", *words, "--rule", "alignn", "--workers", "1", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    targets = ["data.target=optb88vdw_bandgap", "grid={data.target: [optb88vdw_bandgap]}"]
    for task in (run := new_run(tmp_path / "run", f"data.path={tmp_path}/set", *targets)).read_plan().tasks:
        run_task(run.task(task.id).path)
    capfd.readouterr()  # what the tasks have printed
    [one] = json.loads(command("bench", "deviations", tmp_path / "run", "--json").stdout)
    assert one["published"] == 0.14 and one["graphs"] == 50 and len(one["maes"]) == 2


def test_a_run_without_the_published_targets_is_refused(tmp_path, command):
    run = small_run(tmp_path / "run", "grid={data.target: [zpve, homo]}", "seeds=[0]")
    out = command("bench", "deviations", run.path)
    assert out.returncode == 2 and "none of its targets (zpve, homo)" in out.stderr
    run = small_run(tmp_path / "other", "grid={data.target: [zpve], train.clip: [1.0]}", "seeds=[0]")
    out = command("bench", "deviations", run.path)
    assert out.returncode == 2 and "varies train.clip too" in out.stderr
