"""The command line: what it prints, its exit codes, and what it does not load."""

import json
import subprocess
import sys

import pytest
from conftest import PROBE, ROOT, SMALL, hpc_kit, probe_run, set_options, small_run

from hpc_kit.spec.job import load_job

COMMANDS = ["submit", "run", "task", "status", "logs", "cancel", "resume", "report", "predict"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(command, name):
    out = command(name, "--help")
    assert out.returncode == 0
    assert "Example: " in out.stdout


def test_dry_run_prints_each_task_with_its_command_and_starts_nothing(command, tmp_path):
    out = command("submit", "--site", "local", "quickstart", "--dry-run", "--run", "run")
    assert out.returncode == 0
    lines = [line.strip() for line in out.stdout.splitlines() if " -m hpc_kit task " in line]
    assert len(lines) == 3
    assert lines[0].startswith(
        f"OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 {sys.executable} -m hpc_kit task {tmp_path}/run/"
    )
    assert list(tmp_path.iterdir()) == []


def test_command_of_a_dry_run_runs_the_task(command, tmp_path):
    run = probe_run(tmp_path / "run")
    shown = command("submit", "--site", "local", "probe", *set_options(PROBE), "--dry-run", "--run", "run").stdout
    subprocess.run(["bash", "-c", shown.splitlines()[-1]], check=True, capture_output=True)
    assert run.task(run.read_plan().tasks[0].id).is_done()


LOGIN_SIDE = {
    "help": ["--help"],
    "dry run": ["submit", "--site", "local", "quickstart", "--dry-run"],
    "status": ["status"],
}


@pytest.mark.parametrize("name", LOGIN_SIDE)
def test_login_side_starts_without_the_node_side(tmp_path, name):
    code = (
        "import sys; from hpc_kit.cli import main; sys.argv = ['hpc_kit', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print('LOADED', sorted(loaded & {'torch', 'torch_geometric', 'dgl', 'deephyper', 'parsl', 'ase', 'h5py'}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *LOGIN_SIDE[name]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "--site", "local", "nosuch.yaml"], "nosuch.yaml: no such file"),
        (["submit", "--site", "lokal", "quickstart"], "did you mean 'local'?"),
        (["submit", "--site", "local", "quickstart", "--set", "train.epoch=3"], "did you mean 'epochs'?"),
        (["submit", "--site", "local", "quickstart", "--set", "resources.gpus_per_rank=1"], "shows no GPU"),
        (["run", "quickstart", "--set", "data.target=zpv"], "did you mean 'zpve'?"),
        (["resume", "nowhere"], "not a run directory"),
        (["status", "nowhere"], "not a run directory"),
        (["report", "nowhere"], "not a run directory"),
        (["cancel", "nowhere"], "not a run directory"),
        (["logs", "nowhere"], "not a run directory"),
        (["task", "nowhere"], "not a task directory"),
    ],
)
def test_wrong_input_gets_a_message_and_exit_code_2(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = command(*arguments)
    assert out.returncode == 2
    assert message in out.stderr and "Traceback" not in out.stderr
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_for_runs_gets_a_message(command, tmp_path):
    (tmp_path / "runs").write_text("a file, not a folder")
    out = command("run", "quickstart", *set_options(SMALL))
    assert out.returncode == 2
    assert "runs" in out.stderr and "Traceback" not in out.stderr


def test_task_that_is_being_worked_on_is_refused(small_task, tmp_path):
    lock = small_task.lock
    assert lock.acquire()
    out = hpc_kit("task", small_task.path, cwd=tmp_path)
    lock.release()
    assert out.returncode == 2 and "works on this task" in out.stderr


def test_status_and_logs_of_a_run(command, tmp_path):
    run = small_run(tmp_path / "runs" / "first", "seeds=[0, 1]")
    states = json.loads(command("status", "runs/first", "--json").stdout)
    assert [(task["label"], task["state"], task["total"]) for task in states] == [
        ("seed=0", "planned", 4),
        ("seed=1", "planned", 4),
    ]
    assert "2 planned" in command("status").stdout
    for task in run.read_plan().tasks:
        run.task(task.id).log.write_text(f"log of {task.label}\n")
    assert "log of seed=0" in command("logs", "runs/first").stdout
    one = command("logs", "runs/first", "seed=1")
    assert one.stdout == "log of seed=1\n"
    wrong = command("logs", "runs/first", "seed=7")
    assert wrong.returncode == 2 and "no task is called 'seed=7'" in wrong.stderr


@pytest.mark.parametrize("job", sorted(path.stem for path in (ROOT / "jobs").glob("*.yaml")))
def test_job_that_ships_is_valid(job):
    assert load_job(job).job.name == job


def test_prepare_job_is_shown_before_it_runs(command):
    out = command("submit", "--site", "local", "prepare-qm9", "--dry-run")
    assert out.returncode == 0, out.stderr
    assert "prepare qm9" in out.stdout


def test_training_on_shards_that_are_not_there_is_refused(command):
    out = command("run", "qm9-zpve", "--set", "resources.gpus_per_rank=0")
    assert out.returncode == 2
    assert "qm9-zpve.yaml:6: data.path: " in out.stderr and "holds no manifest.json" in out.stderr
