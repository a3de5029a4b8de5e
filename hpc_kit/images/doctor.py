"""Doctor: looks at the environment it stands in, inside an image or not, and says what would go wrong.

The quick checks import no library that computes; a block runs them on its first node. Not for: whether a site can be
used (sites/check.py).
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from hpc_kit import machine
from hpc_kit.checks import Check
from hpc_kit.images.compatibility import OLDEST_DRIVER, problems
from hpc_kit.images.lock import Lock
from hpc_kit.ranks import find_ranks

PROBE_WITHIN_S = 180.0
RANKS = 2
DRIVER_LIBRARIES = Path("/.singularity.d/libs")  # where Apptainer's --nv and --rocm show the host's libraries
LITTLE_DISK_GB, LITTLE_SHARED_MB, CLOCK_S = 5.0, 512, 5.0
_DRIVER_FILES = ("libcuda", "libnvidia-ml", "libamdhip64")
_RING = [3.0, 0.0, 1.0, 2.0]  # what each node of the probes' ring gets from the one before it


def diagnose(folder: Path, quick: bool = False, mpiexec: str | None = None) -> list[Check]:
    """Return what was found. folder: where runs are written; mpiexec: the launcher to try MPI with."""
    lock = _lock()
    device = lock.device if lock else ("cuda" if machine.gpu_devices() else "cpu")
    versions = _installed()
    found = [
        _image(lock, versions),
        *_versions(versions, device, lock.cuda if lock else None),
        *_twice_installed(),
        _gpus(device),
        *_driver(lock.cuda if lock else None),
        *_network(),
        _disk("run folder", folder),
        _disk("temporary files", Path(tempfile.gettempdir())),
        _shared_memory(),
        _clock(folder),
        _hdf5(folder),
    ]
    if quick:
        return found
    found += [_requirements(), _torch(lock, device)]
    found += [_ring("torch_geometric", device)] if "torch-geometric" in versions else []
    found += [_dgl(device)] if "dgl" in versions else []
    found += [_mpi(mpiexec)] if "mpi4py" in versions else []
    return found


def _lock() -> Lock | None:
    text = machine.image_lock()
    return None if text is None else Lock.model_validate_json(text)


def _installed() -> dict[str, str]:
    return {str(canonicalize_name(d.metadata["Name"])): d.version for d in importlib.metadata.distributions()}


def _image(lock: Lock | None, versions: dict[str, str]) -> Check:
    if lock is None:
        return Check("image", "pass", f"none: {sys.prefix}, Python {platform.python_version()}")
    moved = [
        f"{name} {versions.get(name, 'is missing')} (locked: {version})"
        for name, version in lock.versions.items()
        if versions.get(name) != version
    ]
    if moved:
        return Check("image", "fail", f"{lock.image}: {'; '.join(moved[:5])}", "build the image again from its lock")
    return Check("image", "pass", f"{lock.image}, {len(lock.packages)} packages as locked")


def _versions(versions: dict[str, str], device: str, cuda: str | None) -> list[Check]:
    wrong = problems(versions, device, cuda)
    if "torch" not in versions:
        return [Check("versions", "warn", "torch is not installed", "fine on a login node; on a node: hpc-kit[node]")]
    order = "put packages in by the order and versions of an image's lock: hpc_kit image show alignn-dgl-cpu"
    return [Check("versions", "fail", text, order) for text in wrong] or [
        Check(
            "versions", "pass", f"torch {versions['torch']}, numpy {versions.get('numpy')}, dgl {versions.get('dgl')}"
        )
    ]


def _twice_installed() -> list[Check]:
    """Two builds of one package in one environment: whichever was put in last shadows the other's files."""
    seen: dict[str, list[str]] = {}
    for found in importlib.metadata.distributions():
        name = str(canonicalize_name(found.metadata["Name"]))
        if found.version not in seen.setdefault(name, []):
            seen[name].append(found.version)
    return [
        Check(
            "shadowed", "fail", f"{name} is installed as {' and as '.join(both)}", f"pip uninstall {name}; put one in"
        )
        for name, both in seen.items()
        if len(both) > 1
    ]


def _gpus(device: str) -> Check:
    there, found = machine.gpu_devices(), machine.gpus()[0]
    if found:
        return Check("GPU", "pass", f"{len(found)} {found[0]['name']}, driver {found[0]['driver']}")
    if there:
        return Check(
            "GPU",
            "fail",
            f"{len(there)} device files and no driver library that answers",
            "start the image with apptainer exec --nv (container: {gpu: nv} in the site file)",
        )
    if device == "cuda":
        return Check("GPU", "warn", "none on this machine: nothing of CUDA was tried", "look from a node with GPUs")
    return Check("GPU", "pass", "none, and none is needed")


def _driver(cuda: str | None) -> list[Check]:
    """The host's libraries inside an image: their C library against the image's, their driver against its CUDA."""
    found = []
    own = tuple(map(int, platform.libc_ver()[1].split(".")[:2])) if platform.libc_ver()[1] else (0, 0)
    bound = [file for name in _DRIVER_FILES for file in sorted(DRIVER_LIBRARIES.glob(f"{name}.so*"))]
    for library in bound:
        needed = max(
            (tuple(map(int, v)) for v in re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())), default=(0, 0)
        )
        if needed > own:
            seen = f"{library.name} needs glibc {needed[0]}.{needed[1]}, the image has {own[0]}.{own[1]}"
            found.append(
                Check("driver libraries", "fail", seen, "build the image on a newer base (base: in its recipe)")
            )
    gpus = machine.gpus()[0]
    if cuda is not None and gpus and gpus[0]["driver"]:
        oldest = OLDEST_DRIVER[cuda.split(".")[0]]
        enough = Version(gpus[0]["driver"]) >= Version(oldest)
        seen = f"driver {gpus[0]['driver']}, CUDA {cuda} needs {oldest}"
        do = "" if enough else "take an image for an older CUDA"
        found.append(Check("driver", "pass" if enough else "fail", seen, do))
    return found


def _network() -> list[Check]:
    """What NCCL is told to use, where it is told: the interface has to be there, and a plugin to be found."""
    found, there = [], list(psutil.net_if_addrs())
    names = os.environ.get("NCCL_SOCKET_IFNAME", "")
    if names and not names.startswith("^"):
        wanted = names.lstrip("=").split(",")
        fits = [
            card for card in there if any(card == w if names.startswith("=") else card.startswith(w) for w in wanted)
        ]
        state, do = ("pass", "") if fits else ("fail", f"set NCCL_SOCKET_IFNAME to one of {', '.join(there)}")
        found.append(Check("NCCL interface", state, f"{names}: {', '.join(fits) or 'none here'}", do))
    if plugin := os.environ.get("NCCL_NET_PLUGIN") or (
        "libfabric" in os.environ.get("NCCL_NET", "").lower() and "ofi"
    ):
        folders = [Path(f) for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f] + [DRIVER_LIBRARIES]
        wanted = [f"libnccl-net-{plugin}.so", "libnccl-net.so"]
        where = next((folder / name for folder in folders for name in wanted if (folder / name).exists()), None)
        do = "" if where else "bind the folder that holds it and name it in LD_LIBRARY_PATH"
        found.append(Check("NCCL plugin", "pass" if where else "fail", str(where or f"no {wanted[0]}"), do))
    return found


def _disk(name: str, folder: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return Check(
            name, "fail", f"{folder}: {error.strerror}", "bind a folder that can be written to, or go to one"
        )
    free = shutil.disk_usage(folder).free / 1e9
    if free < LITTLE_DISK_GB:
        return Check(name, "warn", f"{folder}: {free:.1f} GB free", "make room")
    return Check(name, "pass", f"{folder}: {free:.0f} GB free")


def _shared_memory() -> Check:
    try:
        size = shutil.disk_usage("/dev/shm").total / 1e6  # noqa: S108 (it is looked at)
    except OSError:
        return Check("shared memory", "fail", "no /dev/shm", "bind it: NCCL and data loaders need it")
    if size < LITTLE_SHARED_MB:
        return Check("shared memory", "warn", f"{size:.0f} MB", "NCCL and data loaders may need more")
    return Check("shared memory", "pass", f"{size / 1000:.1f} GB")


def _clock(folder: Path) -> Check:
    """This machine's clock against that of the file system, which other nodes see too."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            ahead = time.time() - os.stat(file.name).st_mtime
    except OSError as error:
        return Check("clock", "warn", f"not compared: {error.strerror}", "")
    state = "warn" if abs(ahead) > CLOCK_S else "pass"
    return Check("clock", state, f"{ahead:+.1f} s against {folder}", "tell the site" if state == "warn" else "")


def _hdf5(folder: Path) -> Check:
    found = _probe("hdf5", [str(folder)])
    if "failed" in found:
        return Check(
            "HDF5", "fail", found["failed"], "this file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE"
        )
    return Check("HDF5", "pass", f"{found['version']}, files written and read in {folder}")


def _requirements() -> Check:
    """What each package says it needs, against what is installed."""
    there, wrong = _installed(), []
    for found in importlib.metadata.distributions():
        for text in found.requires or []:
            try:
                need = Requirement(text)
            except InvalidRequirement:
                continue
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            version = there.get(str(canonicalize_name(need.name)))
            if version is None or not need.specifier.contains(version, prereleases=True):
                wrong.append(f"{found.metadata['Name']} wants {need.name}{need.specifier}, there is {version}")
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        return Check("requirements", "warn", shown, "known of alignn and dgl, whose own requirements are out of date")
    return Check("requirements", "pass", f"those of {len(there)} packages are met")


def _torch(lock: Lock | None, device: str) -> Check:
    found = _probe("torch")
    if "failed" in found:
        return Check("torch", "fail", found["failed"], "torch cannot be used: build the image again")
    seen = (
        f"{found['version']}, CUDA {found['cuda'] or 'none'}, on {found['device']}, import {found['import_s']:.1f} s"
    )
    if device == "cuda" and found["cuda"] is None:
        return Check(
            "torch", "fail", seen, "this is a build for the CPU: put in the one for CUDA, before anything else"
        )
    if machine.gpu_devices() and found["cuda"] is not None and found["device"] == "cpu":
        return Check("torch", "fail", f"{seen}; a GPU is here and torch does not see it", "see GPU and driver above")
    if found["error"] > 1e-2:
        return Check(
            "torch", "fail", f"{seen}; a product is off by {found['error']:.2g}", "the device computes wrong"
        )
    if found["capability"] and not _runs_on(found["capability"], found["architectures"]):
        kind = "sm_" + "".join(map(str, found["capability"]))
        seen += f"; the GPU is {kind} and torch is built for {', '.join(found['architectures'])}"
        return Check("torch", "fail", seen, "take an image with a newer torch")
    return Check("torch", "pass", seen)


def _runs_on(capability: list[int], architectures: list[str]) -> bool:
    """Code for sm_XY runs on X.Z with Z >= Y; compute_XY is compiled for what is newer."""
    major, minor = capability
    numbers = [(name.split("_")[0], re.sub(r"\D", "", name.split("_")[1])) for name in architectures]
    return any(
        (kind == "sm" and int(n[:-1]) == major and int(n[-1]) <= minor)
        or (kind == "compute" and int(n) <= major * 10 + minor)
        for kind, n in numbers
    )


def _ring(name: str, device: str) -> Check:
    found = _probe(name)
    if "failed" in found:
        return Check(name, "fail", found["failed"], f"{name} cannot be used with this torch")
    right = found.get("sums") == _RING
    return Check(name, "pass" if right else "fail", f"{found['version']}, messages summed on {found['device']}")


def _dgl(device: str) -> Check:
    found = _probe("dgl")
    if "failed" in found:
        do = "torch, torchdata and numpy must be those of its release: see versions"
        return Check("dgl", "fail", found["failed"], do)
    seen = f"{found['version']}, GraphBolt for torch {', '.join(found['graphbolt_for'])}"
    if "error" in found:
        return Check(
            "dgl", "fail", f"{seen}; {found['error']}", "a build for the CPU: put in the CUDA build by its URL"
        )
    if "graphbolt_error" in found:
        return Check("dgl", "fail", f"{seen}; {found['graphbolt_error']}", "take a torch that it has a library for")
    right = found["sums"] == _RING
    return Check("dgl", "pass" if right else "fail", f"{seen}, messages summed on {found['device']}")


def _mpi(mpiexec: str | None) -> Check:
    """N processes under a launcher have to be one world of N, and not N worlds of one."""
    told = find_ranks()
    if told.size > 1:
        return _judge_mpi([_probe("mpi")], told.size)
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = mpiexec or (str(beside) if beside.exists() else shutil.which("mpiexec"))
    if launcher is None:
        return Check("MPI", "warn", "no mpiexec here: not tried", "look from a node: srun -n 2 ... hpc_kit doctor")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    crowded = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}  # on one core too
    lines = _run([launcher, "-n", str(RANKS), sys.executable, "-m", "hpc_kit.probes", "mpi"], root | crowded)
    return _judge_mpi(lines if isinstance(lines, list) else [lines], RANKS)


def _judge_mpi(found: list[dict[str, Any]], launched: int) -> Check:
    do = "launcher and MPI do not match: take the image made for the site's MPI (mpi: in its file)"
    if bad := next((one["failed"] for one in found if "failed" in one), None):
        return Check("MPI", "fail", bad, do)
    library, sizes = found[0]["library"], sorted({one["size"] for one in found})
    if sizes != [launched]:
        return Check("MPI", "fail", f"{library}: {launched} processes are {launched} worlds of {sizes[0]}", do)
    if any(one["sum"] != sum(range(launched)) for one in found):
        return Check("MPI", "fail", f"{library}: the sum over {launched} ranks is wrong", do)
    return Check("MPI", "pass", f"{library}, {launched} ranks are one world")


def _probe(name: str, arguments: list[str] | None = None) -> dict[str, Any]:
    found = _run([sys.executable, "-m", "hpc_kit.probes", name, *(arguments or [])], {})
    return found if isinstance(found, dict) else found[0]


def _run(argv: list[str], environment: dict[str, str]) -> dict[str, Any] | list[dict[str, Any]]:
    """Return what the processes that a command starts print as JSON, or {"failed": their last words}."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=PROBE_WITHIN_S,
            env=os.environ | environment,
            close_fds=False,  # a launcher's processes talk to it over descriptors that they inherit
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)[:300]}
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": (words[-1] if words else f"ended with {done.returncode} and no words")[:300]}
    return lines
