"""Every site's block scripts and command lines, byte for byte. Run as a program, this file writes them anew."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_kit.plan import Plan, make_plan
from hpc_kit.report.plan import example_script
from hpc_kit.runs.layout import RunDir
from hpc_kit.sites.launch import shell_line, task_command, task_environment
from hpc_kit.sites.policy import plan_blocks
from hpc_kit.spec.job import load_job
from hpc_kit.spec.shipped import shipped_folder
from hpc_kit.spec.site import load_site

GOLDEN = Path(__file__).parent.parent / "golden"
RUN = "/scratch/me/my runs/a"  # PBS and Cobalt take no blank in a path
# name -> what is set, how many tasks
SHAPES = {
    "one-gpu": ({}, 1),
    "packed": ({"ranks_per_node": 1, "cpus_per_rank": 4}, 12),
    "node-of-ranks": ({"ranks_per_node": 2}, 2),
    "two-nodes": ({"nodes": 2, "ranks_per_node": 2}, 1),
    "image": ({"nodes": 2, "ranks_per_node": 2, "image": "/scratch/me/node cuda.sif"}, 1),
}
SITES = sorted(file.stem for file in shipped_folder("site_configs").glob("*.yaml") if file.stem != "local")
PARTITIONS = {"sophia": "by-node"}  # where tasks of several nodes are allowed


def rendered(site_name: str, shape: str) -> str:
    """Return the script of a block and the command line of a task, as --dry-run prints them."""
    resources, tasks = SHAPES[shape]
    partition = PARTITIONS.get(site_name) if resources.get("nodes", 1) > 1 else None
    site = load_site(site_name, account="abcd-gpu", partition=partition)
    sets = [f"seeds={list(range(tasks))}", *(f"resources.{k}={v}" for k, v in resources.items() if k != "image")]
    sets += [f"image={resources['image']}"] if "image" in resources else []
    plan: Plan = make_plan(load_job("quickstart", ["resources.gpus_per_rank=1", *sets]))
    task = plan.tasks[0]
    nodes = [f"NODE{i + 1}" for i in range(task.resources.nodes)] if task.resources.nodes > 1 else []
    run = RunDir(Path(RUN if site.scheduler == "slurm" else RUN.replace(" ", "-")))
    script = example_script(site, plan, run, plan_blocks(site, task.resources, tasks))
    command = task_command(site, task, run.task("t"), nodes)
    line = shell_line(command, task_environment(site, task.resources))
    embedded = str(shipped_folder("embedded"))
    return f"{script}\n# a task\n{line}\n".replace(sys.executable, "PYTHON").replace(embedded, "EMBEDDED")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("site", SITES)
def test_scripts_and_command_lines_are_as_recorded(site, shape):
    assert rendered(site, shape) == (GOLDEN / f"{site}-{shape}.sh").read_text()


def test_shell_reads_every_script():
    files = sorted(GOLDEN.glob("*.sh"))
    each = 'for file; do bash -n "$file" || exit 1; done'
    done = subprocess.run(["bash", "-c", each, "bash", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(files) == len(SITES) * len(SHAPES)
    assert all(shlex.split(file.read_text().splitlines()[-1]) for file in files)
    assert not [file.name for file in files if {*file.read_text()} & {*"{}"}]  # nothing is left to be filled in


if __name__ == "__main__":
    for site in SITES:
        for shape in SHAPES:
            (GOLDEN / f"{site}-{shape}.sh").write_text(rendered(site, shape))
