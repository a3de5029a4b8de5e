"""Doctor in environments in which something has been planted."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import hpc_kit

from hpc_kit import machine
from hpc_kit.images import doctor

HYDRA = Path(sys.prefix) / "mpich" / "bin" / "mpiexec.hydra"


def found(cwd: Path, *arguments: str, **environment: str) -> dict[str, dict]:
    """Run the command and return its checks by name."""
    out = hpc_kit("doctor", "--json", *arguments, cwd=cwd, **environment)
    checks = json.loads(out.stdout)
    assert out.returncode == (1 if any(c["state"] == "fail" for c in checks) else 0), out.stderr
    return {check["name"]: check for check in checks}


def planted(folder: Path, *packages: tuple[str, str]) -> str:
    """Return a folder for PYTHONPATH that says of packages that they are installed."""
    for name, version in packages:
        place = folder / f"{name}-{version}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)


def test_environment_at_hand_is_sound(tmp_path):
    checks = found(tmp_path)
    assert {name for name, check in checks.items() if check["state"] == "fail"} == set()
    assert checks["MPI"]["seen"].endswith("2 ranks are one world")
    assert {"torch", "torch_geometric", "HDF5", "clock", "requirements"} <= set(checks)


def test_quick_checks_import_nothing_that_computes(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom hpc_kit.images.doctor import diagnose\n"
        "diagnose(Path('.'), quick=True)\nprint(sorted({'torch', 'h5py', 'mpi4py', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_dgl_beside_what_it_cannot_work_with(tmp_path):
    path = planted(tmp_path / "site", ("dgl", "2.1.0"), ("torchdata", "0.11.0"))
    out = hpc_kit("doctor", "--quick", cwd=tmp_path, PYTHONPATH=path)
    assert out.returncode == 1
    for words in ("no GraphBolt library for torch 2.13.0", "torchdata 0.7.1 and no other", "take numpy<2"):
        assert words in out.stderr


def test_build_for_the_cpu_that_shadows_the_one_for_cuda(tmp_path):
    path = planted(tmp_path / "site", ("dgl", "2.4.0+cu124"), ("dgl", "2.1.0"))
    check = found(tmp_path, "--quick", PYTHONPATH=path)["shadowed"]
    assert check["state"] == "fail" and "2.1.0" in check["seen"] and "2.4.0+cu124" in check["seen"]


def test_dgl_that_cannot_be_loaded_is_told_in_its_own_words(tmp_path):
    path = planted(tmp_path / "site", ("dgl", "2.1.0"))
    (tmp_path / "site" / "dgl.py").write_text("raise ImportError('libgraphbolt_pytorch_2.13.0.so: no such file')")
    assert "libgraphbolt_pytorch_2.13.0.so" in found(tmp_path, PYTHONPATH=path)["dgl"]["seen"]


def test_torch_moved_by_a_later_package(tmp_path, monkeypatch):
    """An image whose lock says one torch, in which another is installed."""
    lock = json.loads((Path(__file__).parents[2] / "containers" / "node-cpu.lock").read_text())
    next(p for p in lock["packages"] if p["name"] == "torch")["version"] = "2.12.0+cpu"
    monkeypatch.setattr(machine, "image_lock", lambda: json.dumps(lock))
    check = next(c for c in doctor.diagnose(tmp_path, quick=True) if c.name == "image")
    assert check.state == "fail" and re.search(r"torch 2.13.0\S* \(locked: 2.12.0\+cpu\)", check.seen)


@pytest.mark.skipif(not HYDRA.exists(), reason=f"no {HYDRA}")
def test_launcher_of_another_mpi_gives_worlds_of_one(tmp_path):
    check = found(tmp_path, "--mpiexec", str(HYDRA))["MPI"]
    assert check["state"] == "fail" and "2 processes are 2 worlds of 1" in check["seen"]
    assert "Open MPI" in check["seen"]


@pytest.mark.skipif(not HYDRA.exists(), reason=f"no {HYDRA}")
def test_doctor_under_a_launcher_judges_that_one(tmp_path):
    argv = [str(HYDRA), "-n", "2", sys.executable, "-m", "hpc_kit", "doctor"]
    out = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert out.returncode != 0 and "2 processes are 2 worlds of 1" in out.stderr


def test_driver_library_that_needs_a_newer_glibc(tmp_path, monkeypatch):
    shutil.copy("/lib/x86_64-linux-gnu/libm.so.6", tmp_path / "libcuda.so.1")
    monkeypatch.setattr(doctor, "DRIVER_LIBRARIES", tmp_path)
    assert [c for c in doctor.diagnose(tmp_path, quick=True) if c.name == "driver libraries"] == []
    content = (tmp_path / "libcuda.so.1").read_bytes()
    (tmp_path / "libcuda.so.1").write_bytes(content.replace(b"GLIBC_2.2.5\0", b"GLIBC_9.9.5\0"))
    check = next(c for c in doctor.diagnose(tmp_path, quick=True) if c.name == "driver libraries")
    assert check.state == "fail" and check.seen.startswith("libcuda.so.1 needs glibc 9.9, the image has 2.")


def test_gpu_that_is_there_and_not_shown_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpu_devices", lambda: [Path("/dev/nvidia0")])
    check = next(c for c in doctor.diagnose(tmp_path, quick=True) if c.name == "GPU")
    assert check.state == "fail" and "--nv" in check.do


def test_interface_and_plugin_that_nccl_is_told_of(tmp_path):
    environment = {"NCCL_SOCKET_IFNAME": "hsn", "NCCL_NET": "AWS Libfabric"}
    checks = found(tmp_path, "--quick", **environment)
    assert checks["NCCL interface"]["seen"] == "hsn: none here" and "lo" in checks["NCCL interface"]["do"]
    assert checks["NCCL plugin"]["seen"] == "no libnccl-net-ofi.so"
    (tmp_path / "libnccl-net-ofi.so").touch()
    environment |= {"NCCL_SOCKET_IFNAME": "=lo", "LD_LIBRARY_PATH": str(tmp_path)}
    checks = found(tmp_path, "--quick", **environment)
    assert {checks["NCCL interface"]["state"], checks["NCCL plugin"]["state"]} == {"pass"}


def test_folder_that_cannot_be_written_to(tmp_path):
    checks = found(tmp_path, "--quick", "--folder", "/proc")
    assert {checks["run folder"]["state"], checks["HDF5"]["state"]} == {"fail"}


def test_clock_that_is_off(tmp_path, monkeypatch):
    real = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + 100)
    check = next(c for c in doctor.diagnose(tmp_path, quick=True) if c.name == "clock")
    assert check.state == "warn" and check.seen.startswith("+100")


def test_folder_that_is_not_there_is_an_input_error(tmp_path):
    out = hpc_kit("doctor", "--folder", "nowhere", cwd=tmp_path)
    assert out.returncode == 2 and "no such folder" in out.stderr
