"""What comes of searches: the table of trials, search.csv, the best trial as a job, its repeats, the summary."""

import csv
import json

import pytest
from conftest import hpc_kit, set_options, small_run
from search_records import add_trials, search_run

from hpc_kit.files import append_lines
from hpc_kit.plan import make_plan
from hpc_kit.report.summary import summarize
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir
from hpc_kit.search.results import COLUMNS, read_search, write_csv
from hpc_kit.search.winner import luck, task_of, winner
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site

BOTH = ("grid={search.strategy: [bayes, random]}", "seeds=[0, 1]")


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> RunDir:
    """Two strategies with two seeds, twelve trials each, one of which failed."""
    run = search_run(tmp_path_factory.mktemp("searched"), *BOTH)
    add_trials(run, 12, fail=(3,))
    return run


def searches(run: RunDir):
    return [read_search(run.task(task.id)) for task in run.read_plan().tasks]


def test_the_table_has_the_trials_by_error_and_says_why_some_failed(searched, command):
    shown = json.loads(command("search", searched.path, "--json").stdout)["trials"]
    errors = [row["error"] for row in shown if row["state"] == "done"]
    assert len(shown) == 48 and len(errors) == 44 and errors == sorted(errors)
    assert {row["reason"] for row in shown[44:]} == {"not finite: the loss of epoch 1 is nan"}
    said = command("search", searched.path, "--top", "2").stdout
    assert "12 of 40 trials ended: 11 done, 1 failed" in said
    assert "trial 3: not finite: the loss of epoch 1 is nan" in said


def test_the_csv_has_every_column_also_before_any_trial_is_done(tmp_path):
    run = search_run(tmp_path)
    add_trials(run, 2, fail=(0, 1))
    path = write_csv(run.task(run.read_plan().tasks[0].id))
    rows = list(csv.reader(path.open()))
    assert rows[0] == [*COLUMNS, "train.learning_rate", "train.batch_size", "train.optimizer"]
    assert path.name == "search.csv" and len(rows) == 3 and rows[1][rows[0].index("error")] == ""


def test_keys_of_whole_models_have_columns_of_their_own(tmp_path):
    space = "{model: [{name: schnet, filters: [8, 16]}, {name: physnet, hidden: [8, 16]}]}"
    run = search_run(tmp_path, f"search.space={space}")
    assert searches(run)[0].keys == ["model.name", "model.filters", "model.hidden"]


def test_the_best_trial_becomes_a_job_of_the_same_training(searched, tmp_path, command):
    search, trial, of = winner(searches(searched))
    assert of == 48 and command("search", searched.path, "--best", "best.yaml").returncode == 0
    [task] = make_plan(load_job(str(tmp_path / "best.yaml"))).tasks
    wanted = task_of(search, trial)
    assert task.work.content() == wanted.work.content() and task.seed == wanted.seed
    assert task.work.data.split == wanted.work.data.split and task.resources == wanted.resources
    assert command("search", searched.path, "--best", "best.yaml").returncode == 2  # is there already


def test_repeats_have_seeds_that_no_search_had(searched, tmp_path, command):
    command("search", searched.path, "--best", "again.yaml", "--repeat", "3")
    assert [task.seed for task in make_plan(load_job(str(tmp_path / "again.yaml"))).tasks] == [2, 3, 4]


def test_a_run_of_another_training_is_no_repeat(searched, tmp_path, command):
    command("search", searched.path, "--best", "again.yaml", "--repeat", "2")
    file = load_job(str(tmp_path / "again.yaml"), ["train.epochs=3"])
    create_run(tmp_path / "other", make_plan(file), file.job, load_site("local"))
    refused = command("search", searched.path, "--repeats", "other")
    assert refused.returncode == 2 and "trains something else than trial" in refused.stderr


def test_repeats_tell_how_much_of_the_first_error_was_luck():
    found = luck(0.010, [0.012, 0.014, 0.009], "eV", 40)
    assert found["worse_than_first"] == 2 and found["mean"] == pytest.approx(0.35 / 30)
    assert (
        "The best of 40 trials had 10 meV; 3 repeats with fresh seeds have 11.67 meV ± 2.5 meV" in found["sentence"]
    )
    assert "1.667 meV of the first was luck" in found["sentence"]


def test_budgets_are_equal_and_too_few_seeds_are_called_too_few(tmp_path):
    run = search_run(tmp_path, *BOTH)
    add_trials(run, 4)
    first = run.task(run.read_plan().tasks[0].id)
    lines = (first.path / "trials.jsonl").read_text().splitlines()
    (first.path / "trials.jsonl").write_text("\n".join(lines[:-1]) + "\n")  # its last trial is still under way
    [found] = summarize(run)["comparisons"]
    assert found["budget"] == 3 and {side["trials"] for side in found["sides"].values()} == {6}
    assert "cannot be told apart by 2 against 2" in found["tests"][0]["sentence"]
    assert found["published"]["bayes"]["min_loss"] == 0.923  # ZPVE, table 4 of the paper


def test_the_time_between_two_attempts_is_no_time_of_search(tmp_path):
    run = search_run(tmp_path)
    folder = run.task(run.read_plan().tasks[0].id)
    asked = {"event": "asked", "id": "a", "values": {}, "by": "random"}
    started, ended = {"event": "started", "worker": 1, "host": "n", "attempt": 1}, {"event": "ended", "epochs": 1}
    well = ended | {"state": "done", "reason": "", "objectives": {"error": 1.0, "epoch_s": 1.0}}
    lines = [
        {"time": 100.0, "event": "manager", "attempt": 1},
        {"time": 101.0, "number": 0} | asked,
        {"time": 102.0, "number": 0} | started,
        {"time": 110.0, "number": 0} | well,
        {"time": 500.0, "event": "manager", "attempt": 2},
        {"time": 501.0, "number": 1} | asked,
        {"time": 503.0, "number": 1} | started,
        {"time": 505.0, "number": 1} | well,
        {"time": 506.0, "event": "workers", "starting_s": 2.0, "idle_s": 1.0, "busy_s": 9.0, "spare_s": 3.0},
        {"time": 506.0, "event": "optimizer", "asked": 2, "cpu_s": 0.5, "wall_s": 0.6},
    ]
    append_lines(folder.path / "trials.jsonl", lines)
    search = read_search(folder)
    assert search.end_times(2) == [10.0, 15.0] and search.wall_s == 16.0
    assert search.idle == pytest.approx(0.1) and search.optimizer_s == pytest.approx(0.25)


def test_what_another_kind_of_run_is_told(tmp_path, command):
    refused = command("search", small_run(tmp_path / "trained").path)
    assert refused.returncode == 2 and "is a run of kind train, not of searches" in refused.stderr


def test_a_real_search_leaves_its_table_and_trials_that_are_runs_like_any_other(tmp_path):
    search_run(tmp_path / "made")  # for its job file
    job = tmp_path / "made" / "made.yaml"
    space = "search.space={train.learning_rate: {low: 1e-4, high: 1e-3, log: true}, train.batch_size: [16, 32]}"
    small = ("search.trials=2", "search.initial=1", "search.rank_0_trains=true", "resources.ranks_per_node=1", space)
    sets = set_options([*small, "track={wandb: offline}"])
    ended = hpc_kit("run", job, *sets, "--run", "run", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = RunDir(tmp_path / "run")
    [search] = searches(run)
    [table] = run.path.glob("tasks/*/search.csv")
    assert [row["error"] for row in csv.DictReader(table.open())] == [str(trial.error) for trial in search.trials]
    assert search.workers == 1 and 0 <= search.idle < 1 and len(search.done) == 2 and search.optimizer_s > 0
    copies = [path for path in search.trials_run.path.glob("tasks/*/wandb/offline-run-*/*.wandb")]
    assert len(copies) == 2 and all(search.task.id.encode() in path.read_bytes() for path in copies)
    assert "test MAE" in hpc_kit("report", search.trials_run.path, cwd=tmp_path).stdout
    assert hpc_kit("search", "run", "--best", "best.yaml", cwd=tmp_path).returncode == 0
    again = hpc_kit("run", "best.yaml", "--run", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    [task] = RunDir(tmp_path / "again").read_plan().tasks
    found = json.loads(RunDir(tmp_path / "again").task(task.id).metrics.read_text())["best_val_score"]
    assert found == pytest.approx(search.best.error, rel=1e-6)  # the same training gives the same number
