"""Every command's example works as typed, and every command answers odd input in one or two lines."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import typer
from conftest import small_run

from hpc_kit.cli import app, main

HERE = typer.main.get_command(app)
RUN = "runs/quickstart-20260102-030405"


def _commands(group=HERE, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(_commands())
# Those that can be run here and now; of the others it is checked that the command line is understood.
RUNS = ["status", "logs", "cancel", "report", "sites list", "sites show", "image list", "image show"]


def call(capfd, *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hpc_kit", *arguments])
        main()
    return ended.value.code or 0, *capfd.readouterr()


@pytest.mark.parametrize("name", COMMANDS)
def test_example_of_each_command_works_as_typed(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    example = COMMANDS[name].epilog.removeprefix("Example: ")
    words = shlex.split(example)
    words = words[words.index("hpc_kit") + 1 :]
    assert words[: len(name.split())] == name.split()
    if name in RUNS or "--dry-run" in words:
        if RUN in words:
            small_run(tmp_path / RUN)
            words = [word for word in words if word != "-f"]  # there is no driver to wait for
        code, _, said = call(capfd, *words)
        assert code == 0, said
    else:
        COMMANDS[name].make_context(name, words[len(name.split()) :])


ODD = ["nowhere", "folder", "empty", "binary", "latin.yaml", "pipe", "loop", "empty/x", "x" * 300, "", "~nobody/x"]
ODD += [".", "/dev/null", "a\nb", "\udcff", "binary.sif", "folder.sif", "nowhere.sif", "pipe.sif"]
TAKERS = [
    "submit --site local @",
    "submit --site @ quickstart --dry-run",
    "submit --site local quickstart --set @",
    "submit --site local quickstart --dry-run --set image=@",
    "submit --site local quickstart --dry-run --set train.start_from=@",
    "submit --site local quickstart --dry-run --walltime @",
    "submit --site delta quickstart --dry-run --account @",
    "run @",
    "run quickstart --set data.target=none --run @",
    "resume @",
    "status @",
    "logs @",
    "cancel @",
    "report @",
    "task @",
    "sites show @",
    "sites check local --job @",
    "image show @",
    "image lock @",
    "image build @",
    "image verify @",
    "doctor --quick --folder @",
    "data info @",
    "data verify @",
    "data prepare @ --out made",
]
FINE = [("--folder @", "folder"), ("--folder @", "."), ("--folder @", "folder.sif"), ("--folder @", "")]
FINE += [("--set image=@", ""), ("start_from=@", "")]
FINE += [("start_from=@", odd) for odd in ("empty", "binary", "latin.yaml", "binary.sif")]


@pytest.fixture(scope="module")
def odd_things(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name in ("folder", "folder.sif"):
        (folder / name).mkdir()
    for name in ("binary", "binary.sif"):
        (folder / name).write_bytes(bytes(range(256)) * 8)
    (folder / "empty").touch()
    (folder / "latin.yaml").write_bytes(b"name: \xff\n")
    for name in ("pipe", "pipe.sif"):
        os.mkfifo(folder / name)
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("taker", TAKERS)
def test_odd_input_is_answered_in_a_line_or_two(odd_things, monkeypatch, capfd, taker):
    monkeypatch.chdir(odd_things)
    for odd in ODD:
        if not any(taker.endswith(end) and odd == fine for end, fine in FINE):
            code, _, said = call(capfd, *(word.replace("@", odd) for word in taker.split()))
            said = said.replace("a\nb", "a b")
            assert code == 2 and 1 <= len(said.strip().splitlines()) <= 2, (odd, code, said)


def test_reader_that_goes_away_is_no_error(tmp_path):
    shown = f"{sys.executable} -m hpc_kit sites list --json | true; {sys.executable} -m hpc_kit --help | head -1"
    done = subprocess.run(["bash", "-c", shown], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["sites list", "sites list --json", "--help"])
def test_output_that_cannot_be_written_is_said_in_a_line(tmp_path, command):
    shown = [sys.executable, "-m", "hpc_kit", *command.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(shown, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "output: No space left on device\n")


def hear_interrupts() -> None:
    """Undo what a shell does to a command in the background, as these tests may be: it is deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_ends_with_a_word(tmp_path):
    code = (
        "import sys, hpc_kit.images.doctor, _thread; sys.argv = ['hpc_kit', 'doctor', '--quick']\n"
        "hpc_kit.images.doctor.diagnose = lambda *_: _thread.interrupt_main()\n"
        "from hpc_kit.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, preexec_fn=hear_interrupts
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_interrupt_of_a_preparation_ends_its_workers_without_a_word(tmp_path):
    words = [sys.executable, "-m", "hpc_kit", "data", "prepare", "qm9", "--out", "set", "--workers", "2"]
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True, "preexec_fn": hear_interrupts}
    process = subprocess.Popen(words, cwd=tmp_path, **options)
    while not (tmp_path / "set").exists():
        time.sleep(0.02)
    time.sleep(0.3)  # the workers are starting now
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "interrupted\n")
    with pytest.raises(ProcessLookupError):
        for _ in range(200):  # whose parent is gone, is buried by somebody else
            os.killpg(process.pid, 0)
            time.sleep(0.05)
