"""Command lines: exact, and safe to paste."""

import subprocess
import sys
from pathlib import Path

from hpc_kit.sites.launch import shell_line, task_command, task_environment
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site

SITE = Site(name="box", description="a box", scheduler="local", environment={"NOTE": "a b; $(touch harm)"})


def test_command_runs_this_package_with_this_interpreter():
    alone = [sys.executable, "-m", "hpc_kit", "task", "/r/tasks/t"]
    assert task_command(Path("/r/tasks/t"), Resources()) == alone
    several = task_command(Path("/r/tasks/t"), Resources(ranks_per_node=4))
    assert several == [sys.executable, "-m", "hpc_kit.sites.local_ranks", "4", *alone]


def test_line_gives_the_shell_exactly_these_words(tmp_path):
    environment = task_environment(SITE, Resources(cpus_per_rank=3))
    line = shell_line(
        ["sh", "-c", 'printf "%s|" "$NOTE" "$OMP_NUM_THREADS" "$0"', "it's; $(touch harm)"], environment
    )
    out = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out == "a b; $(touch harm)|3|it's; $(touch harm)|"
    assert list(tmp_path.iterdir()) == []


def test_task_is_told_of_the_nodes_own_disk():
    site = SITE.model_copy(update={"node_local": "/local/$JOB"})
    assert task_environment(site, Resources())["HPC_KIT_NODE_LOCAL"] == "/local/$JOB"
    assert "HPC_KIT_NODE_LOCAL" not in task_environment(SITE, Resources())
