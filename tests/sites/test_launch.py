"""Command lines: exact, and safe to paste."""

import subprocess

import pytest

from hpc_kit.plan import make_plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.sites.launch import container, shell_line, task_environment
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources, load_job
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


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_path_that_a_container_cannot_be_shown_is_refused(tmp_path, name):
    plan = make_plan(load_job("probe", ["image=node.sif"]))
    fine, odd = (RunDir(tmp_path / text).task("t") for text in ("a b", name))
    assert container(SITE, plan.tasks[0], fine)[:4] == ["apptainer", "exec", "--bind", f"{tmp_path}/a b"]
    with pytest.raises(InputError, match="cannot be shown a path with"):
        container(SITE, plan.tasks[0], odd)
