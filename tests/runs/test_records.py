"""Records that were damaged, changed, deleted or are somebody else's: told in a line or two, never a traceback."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import probe_run, small_run
from rich.console import Console
from test_abuse import AS_ANYBODY

from hpc_kit.files import write_json
from hpc_kit.report import tables
from hpc_kit.report.logs import print_logs
from hpc_kit.report.summary import print_summary, summarize
from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.create import create_run
from hpc_kit.runs.fingerprint import read_fingerprint
from hpc_kit.runs.layout import RunDir, find_runs
from hpc_kit.runs.ledger import Ledger
from hpc_kit.runs.rows import TABLES
from hpc_kit.runs.status import read_statuses, states_or_fault
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import Container
from hpc_kit.submit import drive

OF_RUN = ("plan.json", "site.yaml", "ledger.jsonl", "blocks.jsonl", "image.json", "key")
OF_TASK = ("task.yaml", "done.json", "process.json", "exit.json", "stopped.json", "failed.json", "progress.json")
OF_TRAINING = ("metrics.json", "fingerprint.json", "epochs.jsonl")
NAMES = (*OF_RUN, *OF_TASK, *OF_TRAINING)
LINES = ("ledger.jsonl", "blocks.jsonl", "epochs.jsonl")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] + b"\n")


def wrong_types(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".yaml":
        path.write_text("".join(f"{line.split(':')[0]}: 5\n" for line in text.splitlines() if line[:1].isalpha()))
    elif path.suffix in (".json", ".jsonl"):
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        path.write_text("".join(json.dumps(dict.fromkeys(json.loads(line), [5])) + "\n" for line in lines))
    else:
        path.write_text("5\n")


def other_schema(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 7'))
    path.write_text(path.read_text().replace("schema_version: 2", "schema_version: 7"))


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "truncated": truncated,
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00\n"),
    "nested": lambda path: path.write_text("[" * 50_000 + "\n"),
    "wrong types": wrong_types,
    "other schema": other_schema,
    "a folder": folder,
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


def looks(run: RunDir) -> list[str]:
    """Look at a run in every way there is; return what was said. Raises whatever is not a word for the user."""
    console, said = Console(file=io.StringIO(), width=2000), []
    task = run.task(next((run.path / "tasks").iterdir()).name)
    for look in (
        lambda: tables.print_tasks(read_statuses(run), console),
        lambda: tables.print_runs({str(r.path): states_or_fault(r) for r in find_runs(run.path.parent)}, console),
        lambda: print_summary(summarize(run), console),
        lambda: print_logs(run, "", follow=False),
        lambda: [list(rows(run, run.read_plan())) for rows in TABLES.values()],
        lambda: run.check_tasks({task.path.name}),
        lambda: read_fingerprint(task.fingerprint),
        *(task.read_task, task.read_process, task.read_exit, task.read_progress, task.read_stopped, task.read_failed),
        *(run.read_site, run.read_image, lambda: run.key, lambda: BlockLog(run), lambda: Ledger(run.ledger, [])),
    ):
        try:
            look()
        except (InputError, WorkError) as error:
            assert len(str(error).splitlines()) <= 2 and "Input should" not in str(error), error
            said.append(str(error))
    return [*said, console.file.getvalue()]


def damaged_copy(run: RunDir, path: Path, name: str) -> tuple[RunDir, Path]:
    copy = RunDir(shutil.copytree(run.path, path / "run"))
    (task,) = (path / "run" / "tasks").iterdir()
    return copy, (copy.path if name in OF_RUN else task) / name


def finished(run: RunDir) -> RunDir:
    """Drive a run to its end, and add the records that a run like this has only elsewhere."""
    drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)
    (task,) = run.read_plan().tasks
    folder = run.task(task.id)
    folder.write_stopped("preempted", "for a test")
    folder.write_failed(WorkError("for a test"))
    write_json(run.image_file, {"sha256": "0" * 64})
    log = BlockLog(run)
    log.ask("hk-1", 1.0, 1)
    log.queued("hk-1", "17")
    log.ended("hk-1", "completed", "COMPLETED", 60.0)
    assert [state.state for state in read_statuses(run)] == ["done"]
    return run


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> RunDir:
    return finished(probe_run(tmp_path_factory.mktemp("probe") / "run", "probe={steps: 1, step_s: 0}"))


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> RunDir:
    return finished(small_run(tmp_path_factory.mktemp("training") / "run", "seeds=[0]", "train.epochs=2"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_damaged_record_is_named(name, damage, probe, training, tmp_path, capsys):
    run, path = damaged_copy(training if name in OF_TRAINING else probe, tmp_path, name)
    before = path.read_bytes()
    DAMAGES[damage](path)
    said = "\n".join(looks(run)) + capsys.readouterr().err
    if damage == "missing":  # of the rest a task may have none
        assert name not in ("site.yaml", "task.yaml", "plan.json", "key", "done.json", "metrics.json") or name in said
    elif path.is_dir() or not path.is_file() or path.read_bytes() != before:
        assert name in said or (damage == "empty" and name in LINES)


def test_record_of_somebody_else_is_named(training, tmp_path):
    """As root without the power to read what it may not."""
    copy = shutil.copytree(training.path, tmp_path / "run")
    code = "import sys, test_records as t; t.look_without_rights(sys.argv[1])"
    words = AS_ANYBODY if os.geteuid() == 0 else []
    here = Path(__file__).parent
    told = subprocess.run(
        [*words, sys.executable, "-c", code, copy],
        env=os.environ | {"PYTHONPATH": f"{here}:{here.parent}"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == list(NAMES)


def look_without_rights(path: str) -> None:
    """Print the name of each record that is named when it may not be read."""
    run = RunDir(Path(path))
    (task,) = (run.path / "tasks").iterdir()
    for name in NAMES:
        record = (run.path if name in OF_RUN else task) / name
        record.chmod(0)
        stdout, sys.stdout = sys.stdout, io.StringIO()
        said = "\n".join(looks(run))
        sys.stdout = stdout
        record.chmod(0o600)
        if f"{record}: cannot be read: Permission denied" in said:
            print(name)


def test_damaged_lines_cost_what_they_said_and_no_more(probe, tmp_path, capsys):
    run, path = damaged_copy(probe, tmp_path, "ledger.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff\n" + b'{"time": 1}\n' + b"".join(lines[1:]))
    (state,) = read_statuses(run)
    assert (state.state, state.attempt) == ("done", 1)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{path}:2:1: is damaged: ")
    assert told.endswith("; the line is left out, and 1 more of this file")


def test_one_bad_run_hides_no_other(probe, tmp_path):
    for name in ("a", "b", "c"):
        shutil.copytree(probe.path, tmp_path / name)
    (tmp_path / "a" / "plan.json").write_text("{")
    (tmp_path / "b" / "plan.json").unlink()
    found = {run.path.name: states_or_fault(run) for run in find_runs(tmp_path)}
    assert "plan.json:1:1: is damaged" in found["a"] and "holds no plan.json" in found["b"]
    assert [state.state for state in found["c"]] == ["done"]


def test_done_is_believed_only_with_done_json(probe, tmp_path):
    run, path = damaged_copy(probe, tmp_path, "done.json")
    path.unlink()
    (state,) = read_statuses(run)
    assert (state.state, state.reason) == ("lost", "it was done, and now there is no done.json")
    drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)
    lines = [json.loads(line) for line in run.ledger.read_text().splitlines()]
    assert [(line["state"], line["attempt"]) for line in lines[2:4]] == [("done", 1), ("submitted", 2)]
    assert lines[3]["reason"] == "it was done, and now there is no done.json"
    assert lines[-1]["state"] == "done" and path.exists()


def test_run_without_its_tasks_says_so(probe, tmp_path):
    run, _ = damaged_copy(probe, tmp_path, "done.json")
    shutil.rmtree(run.path / "tasks")
    for look in (
        lambda: summarize(run),
        lambda: print_logs(run, "", follow=False),
        lambda: drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False),
    ):
        with pytest.raises(InputError, match=r"run/tasks: is gone, and all that the tasks had left with it"):
            look()
    assert [state.state for state in read_statuses(run)] == ["lost"]


@pytest.mark.parametrize("name", ["metrics.json", "predictions.h5"])
def test_results_are_those_that_the_task_wrote(name, training, tmp_path):
    run, path = damaged_copy(training, tmp_path, name)
    path.write_bytes(path.read_bytes().replace(b"test_mae", b"test_mea").replace(b"HDF", b"hdf"))
    with pytest.raises(InputError, match=f"{name}: was changed: it is not what done.json vouches for; put it back"):
        [list(rows(run, run.read_plan())) for rows in (TABLES["metrics"], TABLES["predictions"])]


def test_epochs_of_a_task_that_is_done_are_vouched_for(training, tmp_path):
    run, path = damaged_copy(training, tmp_path, "epochs.jsonl")
    path.write_text(path.read_text().replace('"epoch": 0', '"epoch": 7', 1))
    with pytest.raises(InputError, match="epochs.jsonl: was changed: it is not what done.json vouches for"):
        list(TABLES["epochs"](run, run.read_plan()))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("task.yaml", "learning_rate: 0.001", "learning_rate: 0.002"),
        ("task.yaml", "seed: 0", "seed: 1"),
        ("site.yaml", "poll_s: 60.0", "poll_s: 61.0"),
        ("plan.json", '"epochs": 2', '"epochs": 3'),
    ],
)
def test_what_was_submitted_is_sealed(name, old, new, training, tmp_path):
    run, path = damaged_copy(training, tmp_path, name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    readers = {"plan.json": run.read_plan, "site.yaml": run.read_site}
    with pytest.raises(InputError, match=f"{name}: was changed after it was written: .* put it back as it was, or"):
        readers.get(name, lambda: run.task(path.parent.name).read_task())()


def test_comments_may_be_added_to_what_was_submitted(training, tmp_path):
    run, path = damaged_copy(training, tmp_path, "task.yaml")
    path.write_text(path.read_text() + "\n# the best one so far\n")
    assert run.task(path.parent.name).read_task() == run.read_plan().tasks[0]


def test_task_of_another_run_is_refused(training, tmp_path):
    run, path = damaged_copy(training, tmp_path, "task.yaml")
    other = small_run(tmp_path / "other", "seeds=[0]", "train.epochs=2", "resources.walltime=00:01:00")
    shutil.copy(other.task(path.parent.name).task_file, path)
    path.with_name("done.json").unlink()
    with pytest.raises(InputError, match=r"task.yaml: is not the one that this run was submitted with; put it back"):
        drive(run, run.read_plan(), run.read_site(), lambda states: None, parsl=False)
    moved = path.parent.rename(path.parent.with_name("other-name"))
    with pytest.raises(InputError, match=r"task.yaml: is of the task 'quickstart-seed0-\w+', not of its folder's"):
        run.task(moved.name).read_task()


def test_other_resources_are_written_anew_before_anything_starts_and_told(tmp_path, capsys):
    run = small_run(tmp_path / "run", "seeds=[0, 1]")
    small_run(tmp_path / "run", "seeds=[0, 1]", "resources.walltime=00:01:00", "resources.retries=2")
    assert capsys.readouterr().err.splitlines() == [
        "written anew:",
        "resources.walltime: was '00:10:00', is '00:01:00'",
        "resources.retries: was 5, is 2",
    ]
    told = [run.task(task.id).read_task().resources for task in run.read_plan().tasks]
    assert {(resources.walltime, resources.retries) for resources in told} == {("00:01:00", 2)}
    assert "walltime: 00:01:00" in run.job_file.read_text().replace("'", "")
    run.check_tasks([task.id for task in run.read_plan().tasks])  # the seals are those of the new files


def test_nothing_is_written_anew_under_a_driver_at_work(tmp_path):
    run = small_run(tmp_path / "run", "seeds=[0]")
    before = run.plan_file.read_bytes()
    held = run.lock
    assert held.acquire()
    code = "import sys; from pathlib import Path; from conftest import small_run;"
    code += " small_run(Path(sys.argv[1]), 'seeds=[0]', 'resources.retries=2')"
    told = subprocess.run(
        [sys.executable, "-c", code, str(run.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "is being driven; 'hpc_kit cancel' it first" in told.stderr
    held.release()
    assert run.plan_file.read_bytes() == before


def test_run_is_not_driven_on_another_site(tmp_path):
    run = small_run(tmp_path / "run", "seeds=[0, 1]")
    other = run.read_site().model_copy(
        update={"poll_s": 5.0, "container": Container(command="singularity", gpu="nv")}
    )
    with pytest.raises(InputError) as told:
        create_run(run.path, run.read_plan(), load_job("quickstart").job, other)
    first, *differing = str(told.value).splitlines()
    assert first.startswith(f"{run.path}: was submitted with other values; 'hpc_kit resume' it as it is, or choose")
    assert differing == [
        "site.container.command: was 'apptainer', is 'singularity'",
        "site.poll_s: was 60.0, is 5.0",
    ]


def test_run_that_is_deleted_under_its_driver_ends_it_in_one_line(tmp_path):
    run = probe_run(tmp_path / "run", "probe.steps=600")

    def show(states):
        if states[0].state == "started" and run.path.exists():
            run.path.rename(tmp_path / "gone")  # at once: removing file after file would race with the task

    with pytest.raises((InputError, WorkError), match=r"^.*/run: was deleted while its tasks were run$"):
        drive(run, run.read_plan(), run.read_site(), show, parsl=False)
