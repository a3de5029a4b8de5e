"""What users, their machines and others do wrong: names, owners, full disks."""

import json
import os
import subprocess
import sys

import pytest
from conftest import SMALL, set_options, small_run

from hpc_kit.runs.records import read_lines

# Root, but without the powers that let it write where it may not.
BOUND = "-dac_override,-dac_read_search,-fowner,-chown"
AS_ANYBODY = ["setpriv", f"--bounding-set={BOUND}", f"--inh-caps={BOUND}"]
NOBODY = 65534
# A disk of 16 MB that somebody else fills in the middle of a run, and empties again.
FULL_DISK = """
import os, subprocess, sys, time
from pathlib import Path

disk, words = Path(sys.argv[1]), sys.argv[2:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)], check=True)
driver = subprocess.Popen([sys.executable, "-m", "hpc_kit", *words, "--run", str(disk / "run")])
while not any(path.stat().st_size for path in disk.glob("run/tasks/*/epochs.jsonl")):
    assert driver.poll() is None
    time.sleep(0.05)
other = os.open(disk / "other", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(other, bytes(4096))
except OSError:
    print("first:", driver.wait(), flush=True)
os.close(other)
(disk / "other").unlink()
again = subprocess.run([sys.executable, "-m", "hpc_kit", "resume", str(disk / "run")], stdout=subprocess.DEVNULL)
print("again:", again.returncode, flush=True)
for path in disk.glob("run/tasks/*/epochs.jsonl"):
    sys.stdout.write(path.read_text())
"""


@pytest.mark.parametrize(
    "name", ["my job", "it's", 'a"b', "$(touch harm)", "`touch harm`", "a\nb", "-rf", "../up", "a;touch harm", ""]
)
def test_name_that_a_shell_could_read_is_refused(command, tmp_path, name):
    job = {"name": name, "kind": "train", "data": {"source": "sample", "target": "zpve"}, "model": {"name": "schnet"}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    out = command("submit", "--site", "local", "job.yaml", "--run", "run")
    assert out.returncode == 2 and "name: must " in out.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to somebody else takes root")
def test_run_of_somebody_else_may_be_read_and_not_touched(tmp_path):
    run = small_run(tmp_path / "run", "seeds=[0]")
    everything = [run.path, *run.path.rglob("*")]
    for path in everything:
        os.chown(path, NOBODY, NOBODY)
    before = {path: path.stat().st_mtime_ns for path in everything}
    for words in (["resume", "run"], ["cancel", "run"], ["submit", "--site", "local", "quickstart", "--run", "run"]):
        words = [*AS_ANYBODY, sys.executable, "-m", "hpc_kit", *words]
        words += set_options([*SMALL, "seeds=[0]"]) if "submit" in words else []
        out = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert out.returncode == 2, (words, out.stdout + out.stderr)
        assert "Permission denied" in out.stderr and len(out.stderr.splitlines()) <= 2
    words = [*AS_ANYBODY, sys.executable, "-m", "hpc_kit", "status", "run"]
    out = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0 and "planned" in out.stdout
    assert {path: path.stat().st_mtime_ns for path in [run.path, *run.path.rglob("*")]} == before


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="this machine does not let its users mount a small disk to fill",
)
def test_disk_that_fills_up_ends_the_run_and_resume_goes_on(tmp_path):
    (tmp_path / "disk").mkdir()
    options = set_options([*SMALL, "seeds=[0]", "train.epochs=25"])
    script = ["unshare", "-rm", sys.executable, "-c", FULL_DISK, tmp_path / "disk", "submit", "--site", "local"]
    out = subprocess.run([*script, "quickstart", *options], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    print(out.stdout + out.stderr)
    assert out.returncode == 0
    assert "first: 1" in out.stdout and "could not be started" not in out.stdout
    assert "No space left on device" in out.stdout and "Traceback" not in out.stderr
    assert "again: 0" in out.stdout
    (tmp_path / "epochs.jsonl").write_text(out.stdout[out.stdout.index('{"') :])
    assert [line["epoch"] for line in read_lines(tmp_path / "epochs.jsonl")] == list(range(25))
