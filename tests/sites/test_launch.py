"""Command lines: exact, and safe to paste."""

import subprocess

from hpc_kit.sites.launch import shell_line, task_environment
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site

SITE = Site(name="box", description="a box", scheduler="local", environment={"NOTE": "a b; $(touch harm)"})


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
