"""The fingerprint: the fields that decide whether two timings may be compared, and a hash over them.

`comparable` holds hardware, software, environment, allocation and work, with no host, user or path in it; two
records whose hashes agree were made under the same conditions. `observed` holds what identifies the moment
and the place. What a machine does not tell is null. docs/records.md lists the fields.
"""

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import time
from pathlib import Path
from typing import Any

from hpc_kit import __version__, machine
from hpc_kit.files import file_sha256
from hpc_kit.runs.records import Fingerprint, read_json
from hpc_kit.spec.errors import InputError

SCHEMA = 1
_PACKAGES = ("numpy", "h5py", "ase", "vesin", "parsl", "torch-geometric", "mpi4py", "deephyper", "dgl")
_VARIABLES = re.compile(r"^(NCCL_|FI_|OMP_|KMP_|MKL_|OPENBLAS_|UCX_|PYTORCH_|TORCH_|CUDA_(?!VISIBLE)|HDF5_|MPICH_)")
IMAGE_SHA256 = "HPC_KIT_IMAGE_SHA256"  # the variable that tells a task what the file is that it runs in
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")


def collect(work: dict[str, Any], torch_facts: dict[str, Any]) -> dict[str, Any]:
    """Describe this machine and this work.

    work: data-set hash, batch size, world size, precision and the like; torch_facts: what only the imported
    library knows (versions of CUDA, cuDNN, NCCL, threads). Returns the content of fingerprint.json.
    """
    gpus, gpus_now = machine.gpus()
    comparable = {
        "cpu": machine.cpu(),
        "usable_cores": machine.usable_cores(),
        "memory": machine.memory(),
        "gpus": gpus,
        "network": machine.network(),
        "allocation": _allocation(),
        "software": {
            "hpc_kit": __version__,
            "git_commit": _git_commit(),
            "image": _image(),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
            **{name: _version(name) for name in _PACKAGES},
            **torch_facts,
        },
        "environment": _environment(),
        "work": work,
    }
    return {
        "schema_version": SCHEMA,
        "sha256": comparable_sha256(comparable),
        "comparable": comparable,
        "observed": {
            "time": time.time(),
            "host": socket.gethostname(),
            "user": _user(),
            "job_id": _first("SLURM_JOB_ID", "PBS_JOBID", "COBALT_JOBID"),
            "cpuset": machine.cpuset(),
            "gpus": gpus_now,
            "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "load_average": list(os.getloadavg()),
            "image_sha256": _image_sha256(),
            "working_directory": str(Path.cwd()),
        },
    }


def comparable_sha256(comparable: dict[str, Any]) -> str:
    """Return the hash of the comparable part; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(comparable, sort_keys=True).encode()).hexdigest()


def read_fingerprint(path: Path) -> Fingerprint:
    """Return what a fingerprint.json says. Raises InputError where it is damaged or its hash is of something else."""
    remedy = "remove it, and the machine is looked at again"
    found = read_json(path, Fingerprint, remedy)
    if found is None:
        raise InputError(f"{path}: is gone; {remedy}")
    if comparable_sha256(found["comparable"]) != found["sha256"]:
        raise InputError(f"{path}: was changed: its sha256 is not that of its comparable part; {remedy}")
    return found


def _allocation() -> dict[str, Any]:
    nodes = _first("SLURM_JOB_NUM_NODES", "COBALT_JOBSIZE")
    scheduler = next((s for s in ("SLURM", "PBS", "COBALT") if _first(f"{s}_JOB_ID", f"{s}_JOBID")), None)
    given = _first("SLURM_CPUS_ON_NODE", "NCPUS")
    return {
        "scheduler": scheduler,
        "partition": _first("SLURM_JOB_PARTITION", "PBS_QUEUE", "COBALT_QUEUE"),
        "nodes": int(nodes) if nodes and nodes.isdigit() else None,
        "cpus_on_node": given,
        "whole_node": int(given) >= (os.cpu_count() or 1) if given and given.isdigit() else None,
    }


def _environment() -> dict[str, str]:
    """Return the variables that change timings; of a value that is a path only its last part."""
    chosen = {k: v for k, v in sorted(os.environ.items()) if _VARIABLES.match(k) and not _SECRET.search(k)}
    return {k: re.sub(r"(?:/[^/:,\s]+)*/([^/:,\s]*)", r"\1", v) for k, v in chosen.items()}


def _image() -> dict[str, str] | None:
    """Return the name of the image this runs in and the hash of its lock: what decides about its timings."""
    lock = machine.image_lock()
    if lock is None:
        return None
    return {"name": json.loads(lock)["image"], "lock_sha256": hashlib.sha256(f"{lock}\n".encode()).hexdigest()}


def _image_sha256() -> str | None:
    """Return the hash of the image's file: as the submission said, or of the file itself where it is seen in here."""
    file = Path(os.environ.get("APPTAINER_CONTAINER", ""))
    told = os.environ.get(IMAGE_SHA256)
    return told or (file_sha256(file) if file.is_file() else None)


def _git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, None for an installed wheel."""
    folder = Path(__file__).resolve().parents[2] / ".git"
    head = machine.read_text(folder / "HEAD")
    if head is None or not head.startswith("ref: "):
        return head
    reference = head.removeprefix("ref: ")
    packed = (machine.read_text(folder / "packed-refs") or "").splitlines()
    return machine.read_text(folder / reference) or next(
        (line.split()[0] for line in packed if line.endswith(" " + reference)), None
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if name in os.environ), None)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
