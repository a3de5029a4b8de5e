"""node-cpu built for real, and used: by hand, by somebody else than root, and on the Slurm cluster."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import PROBE, ROOT, SMALL, hpc_kit, set_options
from on_schedulers import undisturbed
from testbed import show_to_all
from testbed.slurm import USER

from hpc_kit.files import file_sha256
from hpc_kit.images.lock import load_lock
from hpc_kit.images.sif import read_image
from hpc_kit.spec.image import find_recipe

LOCK = load_lock(find_recipe("node-cpu"))
ONE = set_options([*SMALL, "seeds=[0]"])
FOUR_RANKS = set_options(["resources.nodes=2", "resources.ranks_per_node=2"])
ALL_FILES = (
    "cd /; find opt usr etc var root -xdev -type f ! -path 'etc/*/hosts' -print0 | sort -z | xargs -0 sha256sum"
)


@pytest.fixture
def boxed(tmp_path) -> Path:
    """The Slurm cluster as a site whose tasks run in images."""
    path = tmp_path / "boxed.yaml"
    text = {"extends": str(ROOT / "tests/testbed/site.yaml"), "name": "boxed", "mpi": "openmpi"}
    path.write_text(yaml.safe_dump(text | {"container": {"command": "apptainer"}}))
    return path


def only_task(cwd: Path) -> Path:
    (task,) = cwd.glob("runs/*/tasks/*")
    return task


def losses(task: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (task / "epochs.jsonl").read_text().splitlines()]


def test_built_image_verifies(node_cpu, tmp_path):
    out = hpc_kit("image", "verify", node_cpu, "--json", cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(out.stdout)}
    assert out.returncode == 0 and {check["state"] for check in checks.values()} == {"pass"}, out.stdout
    assert {"origin", "image", "requirements", "torch", "torch_geometric", "MPI", "HDF5"} <= set(checks)
    assert f"{len(LOCK.packages)} packages as locked" in checks["image"]["seen"]


def test_image_says_what_it_is_without_apptainer(node_cpu):
    said = read_image(node_cpu)
    assert (said.image, said.device, said.mpi, said.lock) == ("node-cpu", "cpu", "openmpi", LOCK.sha256)
    assert said.versions == "torch=2.13.0+cpu numpy=2.4.6 openmpi=5.0.11"
    assert said.sha256 == file_sha256(node_cpu)


def test_contents_are_attached(node_cpu):
    pieces = subprocess.run(["apptainer", "sif", "list", node_cpu], capture_output=True, text=True, check=True).stdout
    number = next(line.split("|")[0].strip() for line in pieces.splitlines() if "SBOM (cyclonedx-json)" in line)
    dumped = subprocess.run(
        ["apptainer", "sif", "dump", number, node_cpu], capture_output=True, text=True, check=True
    )
    listed = {part["name"]: part["version"] for part in json.loads(dumped.stdout)["components"]}
    assert listed == LOCK.versions


@pytest.mark.slow
def test_second_build_without_a_network_holds_the_same_files(node_cpu, tmp_path):
    argv = ["image", "build", "node-cpu", "--base", node_cpu.parent / "base", "--out", tmp_path / "again"]
    own = ["unshare", "--net", sys.executable, "-m", "hpc_kit"]
    done = subprocess.run([*own, *map(str, argv), "--sandbox", "--no-test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (
        subprocess.run(
            ["apptainer", "exec", "--contain", image, "sh", "-c", ALL_FILES], capture_output=True, text=True
        )
        for image in (node_cpu, tmp_path / "again")
    )
    shutil.rmtree(tmp_path / "again")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert len(first.stdout.splitlines()) > 20_000
    assert set(first.stdout.splitlines()) ^ set(second.stdout.splitlines()) == set()


def test_somebody_else_runs_the_quickstart_from_any_folder(node_cpu, tmp_path):
    own = pwd.getpwnam(USER) if USER in {user.pw_name for user in pwd.getpwall()} else None
    uid = own.pw_uid if own else 65534
    show_to_all(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    words = f"touch /opt/x; hpc_kit run jobs/quickstart.yaml {' '.join(repr(word) for word in ONE)}"
    argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "apptainer", "exec", str(node_cpu)]
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": "/nowhere"}
    done = subprocess.run([*argv, "sh", "-c", words], cwd=home, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/opt/x': Read-only file system" in done.stderr
    fingerprint = json.loads((only_task(home) / "fingerprint.json").read_text())
    assert fingerprint["comparable"]["software"]["image"] == {"name": "node-cpu", "lock_sha256": LOCK.sha256}
    assert fingerprint["observed"]["image_sha256"] == read_image(node_cpu).sha256


def test_two_nodes_of_two_ranks_train_inside(node_cpu, boxed, slurm, tmp_path):
    image = set_options([f"image={node_cpu}"])
    out = hpc_kit("submit", "--site", boxed, "quickstart", *ONE, *FOUR_RANKS, *image, cwd=tmp_path)
    assert out.returncode == 0, out.stdout + out.stderr
    task = only_task(tmp_path)
    assert "4 ranks (srun)" in (task / "log.txt").read_text()
    [outside] = undisturbed("seeds=[0]").values()
    assert losses(task) == pytest.approx(outside, rel=1e-4)
    fingerprint = json.loads((task / "fingerprint.json").read_text())
    assert fingerprint["observed"]["image_sha256"] == read_image(node_cpu).sha256
    assert fingerprint["comparable"]["software"]["image"]["lock_sha256"] == LOCK.sha256
    assert json.loads((task.parents[1] / "image.json").read_text())["commit"]
    assert f"{len(LOCK.packages)} packages as locked" in next(task.parents[1].glob("blocks/*.out")).read_text()


def test_ranks_of_one_node_share_a_container(node_cpu, tmp_path):
    two = set_options(["resources.ranks_per_node=2", "image=node-cpu"])
    environment = {"HPC_KIT_IMAGES": str(node_cpu.parent)}
    out = hpc_kit("submit", "--site", "local", "quickstart", *ONE, *two, cwd=tmp_path, **environment)
    assert out.returncode == 0, out.stdout + out.stderr
    assert "2 ranks (hpc_kit)" in (only_task(tmp_path) / "log.txt").read_text()


def test_block_whose_node_is_not_fit_starts_no_task(boxed, slurm, tmp_path):
    fields = yaml.safe_load(boxed.read_text()) | {"environment": {"NCCL_SOCKET_IFNAME": "hsn"}}
    boxed.write_text(yaml.safe_dump(fields))
    out = hpc_kit("submit", "--site", boxed, "quickstart", *ONE, cwd=tmp_path)
    assert out.returncode == 1 and "NCCL interface: hsn: none here" in out.stderr
    assert not list(tmp_path.glob("runs/*/tasks/*/log.txt"))


@pytest.mark.parametrize(
    ("changes", "job", "words"),
    [
        ({"mpi": "mpich"}, [], "is made for openmpi and site boxed needs mpich: take node-cuda-mpich"),
        ({"architecture": "aarch64"}, [], "is for x86_64 and the nodes of boxed are aarch64"),
        ({"partition": "gpuA100x4"}, ["resources.gpus_per_rank=1"], "has no CUDA and the job asks for GPUs"),
    ],
)
def test_site_refuses_an_image_made_for_something_else(node_cpu, boxed, tmp_path, changes, job, words):
    boxed.write_text(yaml.safe_dump(yaml.safe_load(boxed.read_text()) | changes))
    sets = set_options([f"image={node_cpu}", *job])
    out = hpc_kit("submit", "--site", boxed, "quickstart", *ONE, *sets, "--dry-run", cwd=tmp_path)
    assert out.returncode == 2 and words in out.stderr
    if changes != {"partition": "gpuA100x4"}:
        (tmp_path / "job.yaml").write_text((ROOT / "jobs/quickstart.yaml").read_text() + f"image: {node_cpu}\n")
        out = hpc_kit("sites", "check", boxed, "--job", "job.yaml", cwd=tmp_path)
        assert out.returncode == 1 and words.split(":")[0].split()[-1] in out.stdout


def test_run_goes_on_only_in_the_image_it_began_with(node_cpu, tmp_path):
    own = tmp_path / "mine.sif"
    shutil.copy(node_cpu, own)
    short = set_options([*PROBE, "probe.steps=1", f"image={own}"])
    run = ["submit", "--site", "local", "probe", *short, "--run", "r"]
    assert hpc_kit(*run, cwd=tmp_path).returncode == 0
    with own.open("ab") as file:
        file.write(b"\0")
    out = hpc_kit("resume", "r", cwd=tmp_path)
    assert out.returncode == 2 and "has been built again since this run began" in out.stderr


def test_image_that_is_none_or_nowhere(tmp_path):
    (tmp_path / "x.sif").write_bytes(b"no image" * 100)
    for image, words in (("x.sif", "is no SIF file"), ("node-gpu", "image node-gpu: not found here, nor as ")):
        out = hpc_kit("submit", "--site", "local", "quickstart", "--set", f"image={image}", cwd=tmp_path)
        assert out.returncode == 2 and words in out.stderr and not (tmp_path / "runs").exists()


def test_unknown_image_and_unverified_wheels_are_refused(apptainer, tmp_path):
    out = hpc_kit("image", "build", "node-gpu", cwd=tmp_path)
    assert out.returncode == 2 and "did you mean 'node-cpu'?" in out.stderr
    out = hpc_kit("image", "build", "alignn-dgl-cuda", "--out", "x.sif", cwd=tmp_path)
    assert out.returncode == 2 and "no hash is known of torch==2.4.0+cu124, dgl==2.4.0+cu124" in out.stderr


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["show", "alignn-dgl-cuda"], ["show", "node-cpu"]]
)
def test_images_are_listed_and_shown(arguments, tmp_path):
    out = hpc_kit("image", *arguments, cwd=tmp_path, COLUMNS="200")
    assert out.returncode == 0 and ("torch" in out.stdout), out.stderr
    if arguments == ["show", "alignn-dgl-cuda"]:
        assert "https://data.dgl.ai/" in out.stdout and "unverified" in out.stdout
