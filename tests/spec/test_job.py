"""Job files: what is accepted, and that each mistake is named with file, line, key and a remedy."""

import pytest

from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import load_job

JOB = """\
name: zpve
data:
  source: sample
  target: zpve
train:
  epochs: 5
"""


@pytest.fixture
def job_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_defaults_fill_what_a_job_leaves_out(job_file):
    job = load_job(job_file(JOB)).job
    assert (job.seeds, job.model.name, job.train.batch_size) == ([0], "schnet", 128)


def test_override_replaces_a_value_and_creates_a_section(job_file):
    job = load_job(job_file(JOB), ["train.epochs=3", "resources.gpus_per_rank=0"]).job
    assert (job.train.epochs, job.resources.gpus_per_rank) == (3, 0)


def test_scientific_notation_without_a_point_is_a_number(job_file):
    assert load_job(job_file(JOB + "  learning_rate: 1e-4\n")).job.train.learning_rate == 1e-4


def test_walltime_without_quotes_is_not_turned_into_seconds(job_file):
    job = load_job(job_file(JOB + "resources: {walltime: 02:30:00}\n")).job
    assert job.resources.walltime == "02:30:00"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (JOB.replace("epochs: 5", "epochs: -5"), 6, "train.epochs: must be at least 1 (got -5)"),
        (JOB.replace("epochs: 5", "epochs: many"), 6, "train.epochs: must be a whole number (got 'many')"),
        (JOB.replace("epochs: 5", "epochs: 2.5"), 6, "train.epochs: must be a whole number (got 2.5)"),
        (JOB.replace("epochs: 5", "epoch: 5"), 6, "train.epoch: unknown key; did you mean 'epochs'?"),
        (JOB + "  optimizer: adma\n", 7, "'adma' is not allowed; did you mean 'adam'? allowed: adam, adamw, sgd"),
        (JOB + "  learning_rate: .inf\n", 7, "train.learning_rate: must be a finite number"),
        (JOB + "  precision: true\n", 7, "train.precision: True is not allowed"),
        (JOB + "model: schnet\n", 7, "model: must hold keys and values (got 'schnet')"),
        (JOB + "model: {name: schnett}\n", 7, "did you mean 'schnet'?"),
        (JOB.replace("source: sample", "source: qm10"), 3, "data.source: 'qm10' is not allowed"),
        (JOB + "resources:\n  walltime: 2 hours\n", 8, "must be hours:minutes:seconds"),
        (JOB + "resources:\n  nodes: 0\n", 8, "nodes: must be at least 1"),
        (JOB + "seeds: []\n", 7, "seeds: must not be empty"),
        (JOB + "seeds: [0, 1, 0]\n", 7, "must not name a seed twice"),
        (JOB + "grid: {image: [one, two]}\n", 7, "cannot vary 'image'"),
        (JOB + "  epochs: 6\n", "7:3", "train.epochs: is written twice (first in line 6)"),
        (JOB.replace("name: zpve", "name: $(reboot)"), 1, "name: must match"),
    ],
)
def test_mistake_is_named_with_its_line(job_file, text, line, message):
    path = job_file(text)
    with pytest.raises(InputError) as caught:
        load_job(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("split", ["{val: 0.5, test: 0.5}", "{train: 0.9, val: 0.2, test: 0.1}", "{train: 0.0}"])
def test_split_that_leaves_no_training_part_is_refused(job_file, split):
    with pytest.raises(InputError, match="data.split"):
        load_job(job_file(JOB), [f"data.split={split}"])


@pytest.mark.parametrize(
    ("split", "form"),
    [
        ("{}", "Fractions"),
        ("{train: 0.9, val: 0.1, test: 0}", "Fractions"),
        ("{train: 110000, val: 10000, test: 10831, seed: 0}", "Counts"),
        ("{train: 3000, val: 1000, test: 0}", "Counts"),
        ("{group: formula, train: 0.8, val: 0.1, test: 0.1}", "Groups"),
        ("{folds: 5, fold: 0, val: 0.1, seed: 0}", "Folds"),
        ("{folds: 5, fold: 4, group: scaffold}", "Folds"),
        ("{published: leaderboard}", "Published"),
        ("{manifest: split.json}", "FromFile"),
    ],
)
def test_keys_of_a_split_tell_its_form(job_file, split, form):
    job = load_job(job_file(JOB), [f"data.split={split}"]).job
    assert type(job.data.split).__name__ == form
    assert type(job).model_validate(job.model_dump()) == job


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{train: 3000, val: 0.1, test: 0.1}", "split.val: 0.1 is a fraction beside counts: give all of train, val"),
        ("{train: 3000}", "split.test: is missing"),
        ("{train: 3000, val: 500, test: -1}", "split.test: must be at least 0 (got -1)"),
        ("{group: formula, train: 3000}", "split.train: must be at most 1.0 (got 3000)"),
        ("{group: formla}", "split.group: 'formla' is not allowed; did you mean 'formula'?"),
        ("{grop: formula}", "split.grop: unknown key; did you mean 'group'?"),
        ("{folds: 5}", "split.fold: is missing"),
        ("{folds: 1, fold: 0}", "split.folds: must be at least 2 (got 1)"),
        ("{folds: 5, fold: 5}", "split: fold counts from 0: it must be 0 to 4 (got 5)"),
        ("{folds: 2, fold: 0, val: 0.5}", "split: val 0.5 and a test part of 1/2 leave nothing to train on"),
        ("{folds: 5, fold: 0, train: 0.8}", "split.train: does not go with folds, which allows beside it: fold, val"),
        (
            "{published: leaderboard, seed: 1}",
            "split.seed: does not go with published, which allows beside it: nothing",
        ),
        ("{manifest: a.json, test: 0.1}", "split.test: does not go with manifest, which allows beside it: sha256"),
        ("{manifest: a.json, sha256: abc}", "split.sha256: must match"),
        ("{manifest: 3}", "split.manifest: must be text (got 3)"),
        ("random", "split: must hold keys and values (got 'random')"),
    ],
)
def test_impossible_split_is_named_with_what_is_allowed(job_file, split, message):
    path = job_file(JOB.replace("target: zpve", f"target: zpve\n  split: {split}"))
    with pytest.raises(InputError) as caught:
        load_job(path)
    assert f"{path}:5: data.{message}" in str(caught.value)


def test_all_mistakes_are_reported_at_once(job_file):
    with pytest.raises(InputError) as caught:
        load_job(job_file(JOB), ["train.epochs=0", "data.graph.cutoff=-1"])
    assert len(str(caught.value).splitlines()) == 2


def test_mistake_in_an_override_names_the_override(job_file):
    with pytest.raises(InputError, match="--set train.epochs=0: train.epochs: must be at least 1"):
        load_job(job_file(JOB), ["train.epochs=0"])


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train.epochs.more=3", f"model.args{'.a' * 5000}=3"])
def test_malformed_override_is_refused(job_file, text):
    with pytest.raises(InputError, match="--set"):
        load_job(job_file(JOB), [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [("name: [", "not valid YAML"), ("- a\n- b\n", "must hold keys and values"), ("", "must hold keys and values")],
)
def test_file_that_is_no_job_is_refused(job_file, text, message):
    with pytest.raises(InputError, match=message):
        load_job(job_file(text))


def test_unknown_file_lists_the_jobs_that_ship():
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_job("quickstrat")


def test_yaml_cannot_build_objects(job_file):
    with pytest.raises(InputError, match="not valid YAML"):
        load_job(job_file("name: !!python/object/apply:os.system [ls]\n"))


def test_preparation_runs_on_one_rank(job_file):
    path = job_file("name: own\nkind: prepare\nprepare: {source: qm9, out: set}\nresources: {ranks_per_node: 2}\n")
    with pytest.raises(InputError, match="runs on one rank, with resources.cpus_per_rank processes"):
        load_job(path)


@pytest.mark.parametrize(
    ("walltime", "message"),
    [
        ("00:75:00", "'00:75:00' has 75 minutes, and 59 are the most: write '01:15:00'"),
        ("00:00:90", "'00:00:90' has 90 seconds, and 59 are the most: write '00:01:30'"),
        ("00:100:00", "'00:100:00' has 100 minutes, and 59 are the most: write '01:40:00'"),
        ("2:00:00", "each part has two digits: write '02:00:00'"),
        ("1-12:00:00", "days are counted in hours: write '36:00:00'"),
        ("7200", "write '02:00:00' if 7200 are seconds"),
        ("00:00:00", "must be longer than no time at all"),
        ("30:00", "must be hours:minutes:seconds, as in '02:00:00' (got '30:00')"),
        ("'0²:00:00'", "must be hours:minutes:seconds, as in '02:00:00' (got '0²:00:00')"),
        ("2.5", "must be hours:minutes:seconds, as in '02:00:00' (got 2.5)"),
    ],
)
def test_wrong_time_is_named_with_the_right_one(job_file, walltime, message):
    with pytest.raises(InputError) as caught:
        load_job(job_file(JOB), [f"resources.walltime={walltime}"])
    assert str(caught.value).startswith(f"--set resources.walltime={walltime}: resources.walltime: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image: "a\\nb"\n', "job.yaml:7: image: must be one line"),
        ("track:\n  project: >\n    mine\n", "job.yaml:8: track.project: must be one line"),
        (
            'model: {import: "m:C", args: {a: ["x", "\\x1b["]}}\n',
            "model.args.a.1: must hold no control characters",
        ),
        ('model: {import: "m:C", args: {"a\\tb": 1}}\n', "must hold no control characters (U+0009 in it)"),
        ('"\\x1b[2J": 1\n', "job.yaml:7: \\x1b[2J: "),
    ],
)
def test_text_of_several_lines_or_with_control_characters_is_refused(job_file, text, message):
    with pytest.raises(InputError) as caught:
        load_job(job_file(JOB + text))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
