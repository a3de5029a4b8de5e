"""What a training needs before its first step: data with their split, a model with its optimiser, the fingerprint."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hpc_kit.data.features import check_elements, count_elements, element_table
from hpc_kit.data.groups import group_graphs
from hpc_kit.data.loader import Dataset
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import read_composition, stores_forces
from hpc_kit.data.splits import Parts, draw
from hpc_kit.files import write_json
from hpc_kit.models import build_model
from hpc_kit.models.compiling import compiled
from hpc_kit.plan import Task
from hpc_kit.runs import fingerprint
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.site import NODE_LOCAL
from hpc_kit.train.distributed import Group
from hpc_kit.train.job import FILES, PLACES, Work
from hpc_kit.train.objective import Objective
from hpc_kit.train.optim import build_optimizer
from hpc_kit.train.pretrained import load_weights
from hpc_kit.train.scale import fit_scale
from hpc_kit.train.state import GradScaler, State


def open_data(
    task: Task, out: TaskDir, main: bool = True, environment: Mapping[str, str] = os.environ
) -> tuple[Dataset, Parts, np.ndarray | None]:
    """Open the data set, check that it is the one the task was planned with, and draw its split,
    which the main rank writes.

    Returns it with its parts and, where atom references are asked for, the number of atoms of each element in each
    graph, [G, 119].
    """
    folder = Path(task.work.dataset)
    manifest = read_manifest(folder)
    if manifest.sha256 != task.work.dataset_sha256:
        raise InputError(
            f"{folder}: is not the data set this task was planned with (sha256 {manifest.sha256[:12]}, planned"
            f" {task.work.dataset_sha256[:12]}); submit the job anew"
        )
    if task.work.model.element_features:
        check_elements(element_table(), manifest.elements)
    stage = environment.get(NODE_LOCAL)
    local = Path(os.path.expandvars(stage)) if stage else None
    store = Dataset(folder, task.work.data.target, task.work.data.graph, local, task.work.data.window)
    grouping, elements, by = None, None, getattr(task.work.data.split, "group", None)
    if by or task.work.train.atom_references:
        part = read_composition(folder, manifest)
        if by:
            grouping = group_graphs(by, part.z, part.atom_ptr, part.pbc, part.smiles)
        if task.work.train.atom_references:
            elements = count_elements(part.z, part.atom_ptr)
    if task.work.data.forces:
        reason = manifest.without_forces() or ("" if stores_forces(folder, manifest) else "holds no forces")
        if reason:
            raise InputError(f"data.forces: {folder} {reason}")
    known = np.isfinite(store.targets).all(axis=1)
    parts = draw(task.work.data.split, store.ids, known, manifest.sha256, manifest.splits, grouping)
    if main:
        for note in parts.notes:
            print(note, flush=True)
        out.splits.mkdir(exist_ok=True)
        write_json(out.splits / f"{parts.sha256[:12]}.json", parts.manifest)
    return store, parts, elements


def assemble(
    work: Work,
    data: Dataset,
    train: np.ndarray,
    elements: np.ndarray | None,
    device: torch.device,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Objective, Objective, State]:
    """Build the model, with its scale fitted to the graphs `train`, and what trains it.

    Returns the objective that is trained, that which is validated and tested (another where the weights are
    averaged), and the state. elements: as open_data returns them.
    """
    settings = work.train
    scale = fit_scale(
        data.targets[train],
        data.atoms_per_graph[train],
        work.model.sums_over_atoms,
        None if elements is None else elements[train],
        settings.atom_references,
    )
    model = build_model(work.model, work.data.graph, len(work.data.target)).to(device)
    if settings.start_from:
        load_weights(model, work.model, settings.start_from)
    ran = model
    if settings.compile:
        check_compiler(device, environment)
        ran = compiled(model)
    objective = Objective(ran, scale, settings, work.data.forces).to(device)
    eval_objective, ema = objective, None
    if settings.ema:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        eval_objective = Objective(ema.module, scale, settings, work.data.forces).to(device)
    optimizer = build_optimizer(model.parameters(), settings)
    scaler = GradScaler(enabled=settings.precision == "fp16")
    return objective, eval_objective, State(model, optimizer, scaler, ema)


def check_compiler(device: torch.device, environment: Mapping[str, str] = os.environ) -> None:
    """Raise InputError where torch.compile has no compiler to work with."""
    chosen, *usual = ("CXX", "g++", "clang++") if device.type == "cpu" else ("CC", "gcc", "clang")
    names = [name for name in (environment.get(chosen), *usual) if name]
    if not any(shutil.which(name, path=environment.get("PATH")) for name in names):
        raise InputError(
            f"train.compile: torch.compile needs a compiler and none of {', '.join(names)} is here; install one, or"
            " leave train.compile at false"
        )


def write_fingerprint(task: Task, out: TaskDir, group: Group) -> str:
    """Write fingerprint.json and return its hash; one of earlier epochs on another machine is kept beside it."""
    cuda = group.device.type == "cuda"
    facts = {
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    work = {
        "dataset_sha256": task.work.dataset_sha256,
        "data": task.work.data.model_dump(exclude=PLACES),
        "model": task.work.model.model_dump(),
        "train": task.work.train.model_dump(exclude=FILES | {"epochs": True}),
        "world_size": group.size,
        "device": group.device.type,
        "loader": f"{task.work.data.window} shards at a time" if task.work.data.window else "in memory",
        "clock": "time.perf_counter; the device is waited for once, at the end of the epoch",
        "warm_up_epochs": task.work.warm_up_epochs,
    }
    content = fingerprint.collect(work, facts)
    if not group.is_main:
        return content["sha256"]
    if out.fingerprint.exists():
        old = fingerprint.read_fingerprint(out.fingerprint)["sha256"]
        if old != content["sha256"]:
            out.fingerprint.rename(out.path / f"fingerprint-{old[:12]}.json")
    write_json(out.fingerprint, content)
    return content["sha256"]
