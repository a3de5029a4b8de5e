"""Studies over a grid: means and intervals, normalisation, published tables beside them, and what is missing."""

import json
import math

import numpy as np
import pytest
from conftest import small_run
from scipy import stats
from some_runs import GRID, grid_run

from hpc_kit.bench.deviations import deviations
from hpc_kit.bench.measures import Measure
from hpc_kit.bench.published import read_published
from hpc_kit.bench.studies import Cell, Study, estimates, normalised, read_study
from hpc_kit.files import write_json
from hpc_kit.runs.records import sealed
from hpc_kit.spec.errors import InputError
from hpc_kit.task import run_task

ABLATION = "grid={model.alignn_layers: [0, 4], model.gcn_layers: [0, 4]}"
CRYSTALS = [ABLATION, "seeds=[0, 1, 2]", "model={name: alignn, hidden: 8}"]


def mae(place, seed):
    return 0.1 * sum(map(float, place)) + 0.01 * seed


def epoch_s(place, seed):
    return sum(map(float, place)) + 0.1 * seed


def test_cells_have_the_values_of_their_seeds_and_the_first_epoch_is_left_out(tmp_path):
    study = read_study(grid_run(tmp_path / "run", mae, epoch_s), ["test_mae", "epoch_s", "parameters"])
    assert study.axes == ("model.interactions", "train.learning_rate")
    assert [m.title for m in study.measures] == ["test MAE / eV", "time of an epoch / s", "trained numbers"]
    cell = study.cells["2", "0.002"].values
    assert np.allclose(cell, [[mae((2, 0.002), s), epoch_s((2, 0.002), s), 7] for s in range(3)])


def test_intervals_hold_the_true_mean_and_ratio_as_often_as_they_say():
    generator = np.random.default_rng(3)
    hits = {"mean": 0, "ratio": 0}
    for _ in range(2000):
        cells = {("a",): generator.normal(2.0, 0.1, (3, 1)), ("b",): generator.normal(3.0, 0.3, (5, 1))}
        study = Study("s", ("x",), (Measure("m", "m"),), {p: Cell(values) for p, values in cells.items()})
        mean, ratio = estimates(study, 0)["b",], estimates(normalised(study, ("a",)), 0)["b",]
        hits["mean"] += mean.low <= 3.0 <= mean.high
        hits["ratio"] += ratio.low <= 1.5 <= ratio.high
    for count in hits.values():
        assert stats.binomtest(count, 2000, 0.95).pvalue > 0.001, hits


def test_normalised_table_beside_published_ones_says_how_far_each_cell_is(tmp_path, command):
    factor = {("0", "0"): 13.48, ("0", "4"): 1.33, ("4", "0"): 1.03, ("4", "4"): 1.0}
    run = grid_run(
        tmp_path / "run",
        lambda place, seed: 0.033 * factor[tuple(map(str, place))] * (1.1 if place == (0, 4) else 1.0),
        lambda place, seed: 20.0 + seed,
        *CRYSTALS,
    )
    out = command("bench", "table", run.path, "--published", "alignn_ablation", "--json")
    assert out.returncode == 0, out.stderr
    rows = json.loads(out.stdout)
    ours = {
        (row["model.alignn_layers"], row["model.gcn_layers"]): row
        for row in rows
        if row["study"] == "quickstart" and row["measure"] == "test_mae"
    }
    assert {place: round(row["deviation_from_original"], 9) for place, row in ours.items()} == {
        ("0", "0"): 0.0, ("0", "4"): 0.1, ("4", "0"): 0.0, ("4", "4"): 0.0,
    }  # fmt: skip
    assert ours["0", "0"]["normalised_to"] == "4,4" and ours["4", "4"]["value"] == 1.0
    assert sum(row["study"] == "reproduction" for row in rows) == 50
    told = command("bench", "table", run.path, "--published", "alignn_ablation").stdout
    assert "largest deviation: +10.0% at (0,4)" in told and "deviation from reproduction" in told


def test_failed_cell_is_missing_with_its_reason_and_never_zero(tmp_path, command):
    failed = {"interactions=2 train.learning_rate=0.002": "the loss is nan", "0.001 seed=1": "out of memory"}
    run = grid_run(tmp_path / "run", mae, epoch_s, failed=failed)
    rows = json.loads(command("bench", "table", run.path, "--json").stdout)
    found = {(r["model.interactions"], r["train.learning_rate"], r["measure"]): r for r in rows}
    gone, partly = found["2", "0.002", "test_mae"], found["1", "0.001", "test_mae"]
    assert gone["value"] is None and gone["runs"] == 0
    assert "seed=0: failed: the loss is nan" in gone["missing"]
    assert partly["runs"] == 2 and partly["missing"] == "seed=1: failed: out of memory"
    assert math.isclose(partly["value"], (mae((1, 0.001), 0) + mae((1, 0.001), 2)) / 2)
    told = command("bench", "table", run.path).stdout
    assert "missing: (2,0.002) seed=0: failed: the loss is nan" in told
    front = json.loads(command("bench", "pareto", run.path, "--json").stdout)
    assert [row["in_front"] for row in front] == [True, False, False, None]
    out = command("bench", "table", run.path, "--normalise-to", "2,0.002")
    assert out.returncode == 2 and "that cell has no value: seed=0: failed" in out.stderr


def test_without_a_gcn_layer_behind_it_an_alignn_layer_is_one_and_zero_layers_train(tmp_path):
    model = "model={name: alignn, hidden: 8, embedding: 8, edge_bins: 8, triplet_bins: 4}"
    cells = "grid={model.alignn_layers: [0, 1, 2], model.gcn_layers: [0, 1]}"
    run = small_run(tmp_path / "run", model, cells, "seeds=[0]", "train.epochs=4", "data.graph.cutoff=2.0")
    for task in run.read_plan().tasks:
        run_task(run.task(task.id).path)
    errors = {place: cell.values[0, 0] for place, cell in read_study(run, ["test_mae", "epoch_s"]).cells.items()}
    assert len(errors) == 6 and errors["0", "0"] > 0
    assert errors["1", "0"] == errors["0", "1"] and errors["2", "0"] == errors["1", "1"]
    assert len(set(errors.values())) == 4


def test_fewer_than_three_epochs_give_no_time_but_an_error(tmp_path, command):
    run = grid_run(tmp_path / "run", mae, epoch_s, epochs=2)
    rows = json.loads(command("bench", "table", run.path, "--json").stdout)
    times = [row for row in rows if row["measure"] == "epoch_s"]
    few = "has 1 timed epochs after its warm-up; 3 are needed"
    assert all(row["value"] is None and few in row["missing"] for row in times)
    assert all(row["value"] is not None for row in rows if row["measure"] == "test_mae")
    out = command("bench", "pareto", run.path)
    assert out.returncode == 2 and few in out.stderr


def test_three_axes_make_a_table_for_each_value_of_the_third(tmp_path, command):
    grid = "grid={model.interactions: [1, 2], train.learning_rate: [1e-3, 2e-3], train.clip: [1.0, 5.0]}"
    run = grid_run(tmp_path / "run", mae, epoch_s, grid, "seeds=[0]")
    told = command("bench", "table", run.path, "--measure", "test_mae", "--columns", "train.clip").stdout
    assert "(train.learning_rate=0.001)" in told and "(train.learning_rate=0.002)" in told
    out = command("bench", "table", run.path, "--rows", "train.clp")
    assert out.returncode == 2 and "did you mean 'train.clip'?" in out.stderr


def test_what_cannot_be_held_together_is_refused_in_a_line(tmp_path, command):
    run = grid_run(tmp_path / "run", mae, epoch_s)
    other = grid_run(tmp_path / "other", mae, epoch_s)
    plan = json.loads(other.plan_file.read_text())
    for task in plan["tasks"]:
        task["work"]["dataset_sha256"] = "f" * 64
    fields = {key: value for key, value in plan.items() if key != "sha256"}
    write_json(other.plan_file, sealed(fields))
    single = grid_run(tmp_path / "single", mae, epoch_s, "seeds=[0]")
    for words, said in (
        ((run.path, other.path), "works on other data"),
        ((single.path,), "has no grid"),
        ((run.path, "--published", "alignn_ablation"), "is a study over model.alignn_layers"),
        ((run.path, "--measure", "test_mea"), "did you mean 'test_mae'?"),
        ((run.path, "--normalise-to", "1"), "give a value for each of model.interactions, train.learning_rate"),
        ((), "give a RUN"),
    ):
        out = command("bench", "table", *words)
        assert out.returncode == 2 and said in out.stderr, (words, out.stderr)
        assert len(out.stderr.splitlines()) <= 2


def test_own_published_table_is_read_and_a_wrong_one_named_by_line(tmp_path, command):
    run = grid_run(tmp_path / "run", mae, epoch_s, GRID, "seeds=[0, 1]")
    path = tmp_path / "theirs.csv"
    path.write_text("study,model.interactions,train.learning_rate,test_mae\nlab,1,0.001,0.2\nlab,2,0.001,x\n")
    out = command("bench", "table", run.path, "--published", path, "--measure", "test_mae")
    assert out.returncode == 2 and f"{path}:3: test_mae: 'x'" in out.stderr
    path.write_text(path.read_text().replace(",x\n", ",0.1\n"))
    out = command("bench", "table", run.path, "--published", path, "--measure", "test_mae", "--json")
    rows = [row for row in json.loads(out.stdout) if row["study"] == "quickstart"]
    [here] = [r for r in rows if (r["model.interactions"], r["train.learning_rate"]) == ("1", "0.001")]
    assert here["deviation_from_lab"] == pytest.approx((here["value"] - 0.2) / 0.2)


def test_shipped_tables_are_whole():
    table = read_published("jarvis_dft_29_tasks")
    assert len(table.rows) == 29 and table.axes == ("data.target",)
    assert len(read_published("alignn_ablation").rows) == 50
    with pytest.raises(InputError, match="alignn_ablation"):
        read_published("alignn")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["# half of the last digit: x", "book,1,0.4"], "half of the last digit: 'x' must be a number"),
        (["# doubled", "book,1,0.4", "book,1,0.3"], "the cell book, 1 is there already"),
        (["# normalised to: 9", "book,1,0.4"], "normalised to: book has no cell '9'"),
    ],
)
def test_a_published_table_that_contradicts_itself_is_refused(tmp_path, command, lines, said):
    path = tmp_path / "book.csv"
    path.write_text("\n".join([*lines[:1], "study,model.hidden,test_mae", *lines[1:]]))
    out = command("bench", "table", "--published", path, "--measure", "test_mae")
    assert out.returncode == 2 and said in out.stderr


def test_a_published_table_of_two_studies_is_none_to_deviate_from(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("study,data.target,test_mae\nbook,zpve,0.4\nother,zpve,0.9\n")
    with pytest.raises(InputError, match="several studies of one target"):
        deviations(small_run(tmp_path / "run", "seeds=[0]"), read_published(str(path)))
