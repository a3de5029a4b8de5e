"""The wheel holds what an empty folder needs: package, jobs, sites, embedded data."""

import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, SMALL, set_options


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel from a copy of the checkout and unpack it into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_ships_the_top_level_folders(installed):
    for name in ("jobs", "site_configs", "containers"):
        ours = {p.name for p in (ROOT / name).iterdir() if p.is_file()}
        assert {p.name for p in (installed / "hpc_kit" / name).iterdir()} == ours != set()
    assert (installed / "hpc_kit" / "embedded" / "qm9_sample" / "shard-00000.h5").is_file()
    assert (installed / "hpc_kit" / "embedded" / "LICENSE.md").is_file()
    for name in ("3Dmol-min.js", "3Dmol-LICENSE.txt", "viewer.js"):
        assert (installed / "hpc_kit" / "explain" / "template" / name).is_file()


def test_installed_package_runs_the_quickstart_from_an_empty_folder(installed, tmp_path):
    arguments = ["submit", "--site", "local", "jobs/quickstart.yaml", *set_options([*SMALL, "seeds=[0]"])]
    out = subprocess.run(
        [sys.executable, "-m", "hpc_kit", *arguments],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installed), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    fingerprint = next(tmp_path.glob("runs/*/tasks/*/fingerprint.json")).read_text()
    assert '"git_commit": null' in fingerprint  # it ran from the wheel, not from the checkout
