"""What a training needs before its first step: the data with its split, the device, the fingerprint."""

import os
from pathlib import Path

import numpy as np
import torch

from hpc_kit.data.groups import group_graphs
from hpc_kit.data.loader import Dataset
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import read_composition
from hpc_kit.data.splits import Parts, draw
from hpc_kit.files import write_json
from hpc_kit.plan import PLACES, Task
from hpc_kit.runs import fingerprint
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.site import NODE_LOCAL


def open_data(task: Task, out: TaskDir) -> tuple[Dataset, Parts]:
    """Open the data set, check that it is the one the task was planned with, and draw and write its split."""
    folder = Path(task.dataset)
    manifest = read_manifest(folder)
    if manifest.sha256 != task.dataset_sha256:
        raise InputError(
            f"{folder}: is not the data set this task was planned with (sha256 {manifest.sha256[:12]}, planned"
            f" {task.dataset_sha256[:12]}); submit the job anew"
        )
    stage = os.environ.get(NODE_LOCAL)
    local = Path(os.path.expandvars(stage)) if stage else None
    store = Dataset(folder, task.data.target, task.data.graph, local, task.data.window)
    grouping, by = None, getattr(task.data.split, "group", None)
    if by:
        part = read_composition(folder, manifest)
        grouping = group_graphs(by, part.z, part.atom_ptr, part.pbc, part.smiles)
    known = np.isfinite(store.target)
    parts = draw(task.data.split, store.ids, known, manifest.sha256, manifest.splits, grouping)
    for note in parts.notes:
        print(note, flush=True)
    out.splits.mkdir(exist_ok=True)
    write_json(out.splits / f"{parts.sha256[:12]}.json", parts.manifest)
    return store, parts


def open_device(task: Task) -> torch.device:
    if not task.resources.gpus_per_rank:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("resources.gpus_per_rank is 1 but torch sees no GPU; with 0 the task trains on the CPU")
    return torch.device("cuda")


def write_fingerprint(task: Task, out: TaskDir, device: torch.device) -> str:
    """Write fingerprint.json and return its hash; one of earlier epochs on another machine is kept beside it."""
    cuda = device.type == "cuda"
    facts = {
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    work = {
        "dataset_sha256": task.dataset_sha256,
        "data": task.data.model_dump(exclude=PLACES),
        "model": task.model.model_dump(),
        "train": task.train.model_dump(exclude={"epochs"}),
        "world_size": 1,
        "device": device.type,
        "loader": f"{task.data.window} shards at a time" if task.data.window else "in memory",
        "clock": "time.perf_counter; the device is waited for once, at the end of the epoch",
        "warm_up_epochs": 0,
    }
    content = fingerprint.collect(work, facts)
    if out.fingerprint.exists():
        old = fingerprint.read_sha256(out.fingerprint)
        if old != content["sha256"]:
            out.fingerprint.rename(out.path / f"fingerprint-{old[:12]}.json")
    write_json(out.fingerprint, content)
    return content["sha256"]
