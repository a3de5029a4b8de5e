"""Run directories: foreign and outdated ones are refused."""

import json
import resource

import pytest
from conftest import small_run

from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.errors import InputError, WorkError


def test_run_of_another_schema_version_is_refused(tmp_path):
    run = small_run(tmp_path / "run")
    plan = json.loads(run.plan_file.read_text()) | {"schema_version": 7}
    run.plan_file.write_text(json.dumps(plan))
    with pytest.raises(InputError, match="schema version 7; this hpc_kit reads version 2. Finish the run with"):
        run.read_plan()


def test_damaged_plan_is_named(tmp_path):
    run = small_run(tmp_path / "run")
    text = run.plan_file.read_text()
    run.plan_file.write_text(text[: len(text) // 2])
    with pytest.raises(
        InputError, match=r"plan.json:\d+:\d+: is damaged: not valid JSON: EOF .*; put it back as it was"
    ):
        run.read_plan()


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run directory"):
        RunDir(tmp_path).read_plan()
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="exists and is not a run directory"):
        small_run(tmp_path)


def test_run_that_the_disk_does_not_hold_leaves_nothing_and_can_be_submitted_again(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a file that is larger does not fit
    try:
        with pytest.raises(WorkError, match="run: the run directory cannot be made: File too large"):
            small_run(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    assert small_run(tmp_path / "run").read_plan().tasks


def test_same_job_opens_the_run_and_another_is_refused(tmp_path):
    first = small_run(tmp_path / "run")
    assert small_run(tmp_path / "run").read_plan() == first.read_plan()
    with pytest.raises(InputError, match="is a run of other tasks"):
        small_run(tmp_path / "run", "train.epochs=9")
