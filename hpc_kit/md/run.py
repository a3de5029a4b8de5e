"""Moves molecules with each force field that the job names, from where earlier attempts came, and says what came of
it. The node side of kind "dynamics"."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from hpc_kit import machine
from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.shards import read_shard_set
from hpc_kit.files import file_sha256, remove_leftovers, write_json
from hpc_kit.md.forces import ModelForces, xtb_forces
from hpc_kit.md.guard import Guard
from hpc_kit.md.job import File, Work
from hpc_kit.md.leg import Leg
from hpc_kit.md.molecules import read_molecule
from hpc_kit.md.reference import Reference, read_reference
from hpc_kit.md.report import report
from hpc_kit.md.systems import Systems
from hpc_kit.md.training import Range, range_of_frames, range_of_set
from hpc_kit.md.trajectory import last_frames, write_trajectory
from hpc_kit.models import build_model
from hpc_kit.plan import Task
from hpc_kit.predict.predictor import Predictor
from hpc_kit.ranks import Ranks
from hpc_kit.runs import fingerprint
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import InputError, Preempted
from hpc_kit.spec.train import Weights
from hpc_kit.train.best import Best, read_best


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Move to the end, from where earlier attempts came. Raises Preempted, InputError, WorkError."""
    from hpc_kit.train.distributed import Group

    machine.keep_freed_memory()
    torch.set_num_threads(task.resources.cpus_per_rank)
    directory.parts.mkdir(exist_ok=True)
    remove_leftovers(directory.parts)
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        _Run(task, directory, watch, group.device).run(_fingerprint(task, directory, group.device))


class _Run:
    """The legs of one task."""

    def __init__(self, task: Task, directory: TaskDir, watch: Watch, device: torch.device):
        self.task, self.work, self.directory = task, task.work, directory
        self.watch, self.device, self.done = watch, device, 0
        work: Work = task.work
        for one in [*work.molecules.values(), *work.references.values(), work.start]:
            _unchanged(one)
        self.molecules = {name: read_molecule(Path(file.path)) for name, file in work.molecules.items()}
        self.references = {
            name: read_reference(Path(file.path), self.molecules[name], name)
            for name, file in work.references.items()
        }
        self.forces: dict[str, Any] = {}
        self.told: list[str] = []

    def run(self, machine_sha256: str) -> None:
        work, legs = self.work, []
        seen: Range | None = None
        for name, names in work.legs():
            if name == "model" and seen is None:
                seen = self._seen()
            leg = self._leg(name, names, seen if name == "model" else None)
            leg.run(lambda step, took, leg=leg: self._tick(leg, step, took))
            self.done += leg.total
            self.directory.write_progress(self.done, *self.work.amount())
            self._write(leg)
            legs.append(leg)
            if name == "xtb" and work.dynamics.reference == "xtb":
                for number, molecule in enumerate(names):
                    if len(frames := leg.frames(number).read()):
                        self.references[molecule] = Reference.of_frames(frames)
        told = [*dict.fromkeys([*self.told, *(text for leg in legs for text in leg.told)])]
        found = report(self.task, legs, self.molecules, self.references, seen, told)
        write_json(self.directory.metrics, found | {"fingerprint": machine_sha256})

    def _leg(self, name: str, names: Sequence[str], seen: Range | None) -> Leg:
        asked = self.work.dynamics
        molecules = [self.molecules[one] for one in names]
        forces = xtb_forces(self.task.resources.cpus_per_rank) if name == "xtb" else self._model(name)
        guard = Guard(molecules, asked.limits, asked.temperature_K, seen)
        self.told += guard.unwatched(names)
        return Leg(
            name=name,
            names=names,
            molecules=molecules,
            forces=forces,
            guard=guard,
            asked=asked,
            folder=self.directory.parts,
            task=self.task.id,
            seed=self.task.seed,
            starts=self._starts(names[0], molecules[0]),
        )

    def _model(self, name: str) -> ModelForces:
        asked = self.work.dynamics
        members = []
        for one in self.work.fields[name]:
            _unchanged(one)
            best = read_best(Path(one.path), asked.modules)
            members.append(_as_drawn(best, self.task.seed) if name == "untrained" else best)
        predictor = Predictor(members, self.device, asked.precision)
        return ModelForces(predictor, asked.skin, asked.target, asked.allow_unseen)

    def _starts(self, name: str, molecule: Atoms) -> Systems | None:
        start = self.work.start
        if start is None:
            return None
        found = Systems.of(last_frames(Path(start.path), molecule, name), 1)
        found.molecule, found.replica = np.zeros(len(found), np.int64), np.arange(len(found))
        if len(found) != self.work.dynamics.replicas:
            self.told.append(f"{start.path} holds {len(found)} replicas, and these are moved")
        return found

    def _seen(self) -> Range | None:
        """Return the distances that the training saw: of its shard set, or else of the reference frames."""
        training = self.work.training
        if training is not None:
            manifest = read_manifest(Path(training.path))
            if manifest.sha256 != training.sha256:
                raise InputError(f"{training.path}: changed since this task was planned; submit the job anew")
            arrays = read_shard_set(Path(training.path), manifest, targets=[])
            return range_of_set(arrays, f"the training set {training.path}")
        if not self.references:
            return None
        each = ((self.molecules[name].numbers, found.pos) for name, found in self.references.items())
        return range_of_frames(each, "the reference frames")

    def _tick(self, leg: Leg, step: int, took: float) -> None:
        self.watch.stepped(took)
        total, unit = self.work.amount()
        self.directory.write_progress(self.done + step, total, unit)
        if leg.timed:
            rate = leg.timed / leg.seconds
            print(f"{leg.name}: step {step} of {leg.total}, {rate:.1f} steps/s", flush=True)
        if reason := self.watch.asked():
            raise Preempted(
                f"{reason}; {self.done + step} of {total} steps are done, and their state is kept", self.watch.cause
            )

    def _write(self, leg: Leg) -> None:
        """Write the trajectories of a leg that has come to its end, in the form that was asked for."""
        asked = self.work.dynamics
        for number, (name, atoms) in enumerate(zip(leg.names, leg.molecules, strict=True)):
            path = leg.trajectory(number)
            if not path.exists():
                frames = leg.frames(number).read()
                write_trajectory(path, frames, atoms, asked.timestep_fs, self.task.id)
                print(f"{path}: {len(frames)} frames of {name}", flush=True)


def _fingerprint(task: Task, directory: TaskDir, device: torch.device) -> str:
    """Write fingerprint.json and return its sha256; one of an earlier attempt elsewhere is kept beside it."""
    asked = task.work.dynamics
    work = {"kind": task.kind, "device": device.type, "precision": asked.precision, "calculator": asked.calculator}
    facts = {"torch": torch.__version__, "torch_threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    content, file = fingerprint.collect(work, facts), directory.fingerprint
    if file.exists():
        old = fingerprint.read_fingerprint(file)["sha256"]
        if old != content["sha256"]:
            file.rename(directory.path / f"fingerprint-{old[:12]}.json")
    write_json(file, content)
    return content["sha256"]


def _as_drawn(best: Best, seed: int) -> Best:
    """Return the same model with weights as they were drawn."""
    torch.manual_seed(seed)
    model = build_model(best.spec, best.graph, len(best.units)).requires_grad_(False).eval()
    return replace(best, model=model)


def _unchanged(file: File | Weights | None) -> None:
    """Raise InputError where a file is not what the task was planned with; shard sets have sums of their own."""
    if file is None:
        return
    path = Path(file.path)
    digest = read_manifest(path).sha256 if path.is_dir() else file_sha256(path)
    if digest != file.sha256:
        raise InputError(f"{path}: changed since this task was planned; submit the job anew")
