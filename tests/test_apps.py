"""Apps in a script of one's own, on a real Slurm and on this machine."""

import subprocess
import sys

from conftest import SMALL
from on_schedulers import SITE

SCRIPT = """
import sys
import parsl
from hpc_kit.apps import prepare_app, train_app
from hpc_kit.sites import load_site

if __name__ == "__main__":
    small = {small!r}
    site = load_site(sys.argv[1])
    resources = {{"gpus_per_rank": 0, "cpus_per_rank": 1, "walltime": "00:03:00"}}
    with parsl.load(site.parsl_config(resources, tasks=2)):
        fits = [train_app("quickstart", f"runs/{{n}}", [*small, f"seeds=[{{n}}]"]) for n in (0, 1)]
        print([fit.result()["tasks"][0]["state"] for fit in fits])
        wrong = train_app("quickstart", "runs/wrong", ["train.epoch=3"])
        print(type(wrong.exception()).__name__, "did you mean 'epochs'" in str(wrong.exception()))
        print("takes kind 'prepare'" in str(prepare_app("quickstart", "runs/kind", small).exception()))
"""


def outcome(tmp_path, site) -> list[str]:
    (tmp_path / "mine.py").write_text(SCRIPT.format(small=[*SMALL, "resources.gpus_per_rank=0"]))
    out = subprocess.run(
        [sys.executable, "mine.py", str(site)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_script_trains_on_slurm(slurm, tmp_path):
    assert outcome(tmp_path, SITE) == ["['done', 'done']", "InputError True", "True"]
    assert slurm.jobs() == []


def test_same_script_trains_here(tmp_path):
    assert outcome(tmp_path, "local") == ["['done', 'done']", "InputError True", "True"]
