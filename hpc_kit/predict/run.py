"""Predicts this rank's share of the pieces, each to a file of its own, and leaves what is done alone when started
again. The node side of kind "predict".

Piece k goes to rank k % ranks. A part is finished when its sidecar is there and fits; rank 0 gathers the sidecars.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from hpc_kit.data.manifest import read_manifest
from hpc_kit.data.rejects import commonest, write_rejects
from hpc_kit.files import file_sha256, write_json
from hpc_kit.plan import Task
from hpc_kit.predict.job import Work, error_lines
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import InputError, Preempted, WorkError


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Predict to the end, from where earlier attempts came. Raises Preempted, InputError, WorkError."""
    import torch

    from hpc_kit import machine
    from hpc_kit.train.distributed import Group

    machine.keep_freed_memory()
    cores = task.resources.cpus_per_rank
    torch.set_num_threads(cores)
    if ranks.rank == 0:  # before the others can have begun to write
        directory.parts.mkdir(exist_ok=True)
        for leftover in directory.parts.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
    with Watch(os.environ) as watch, Group.open(task, directory, ranks, os.environ) as group:
        _Parts(task.work, directory, watch, group).run(cores if cores > 1 else 0)


class _Parts:
    """One rank's work on the parts of a prediction."""

    def __init__(self, work: Work, directory: TaskDir, watch: Watch, group: Any):
        from hpc_kit.data.sampling import Limits
        from hpc_kit.predict.inputs import open_inputs
        from hpc_kit.predict.predictor import BATCH, Predictor
        from hpc_kit.train.best import read_best

        self.work, self.directory, self.watch, self.group = work, directory, watch, group
        asked = work.predict
        for one in work.weights:
            if file_sha256(Path(one.path)) != one.sha256:
                raise InputError(f"{one.path}: changed since this task was planned; submit the job anew")
        if work.dataset_sha256 and read_manifest(Path(asked.input[0])).sha256 != work.dataset_sha256:
            raise InputError(f"{asked.input[0]}: changed since this task was planned; submit the job anew")
        members = [read_best(Path(one.path), asked.modules) for one in work.weights]
        self.predictor = Predictor(members, group.device)
        self.limits = Limits(asked.batch, edges=BATCH.edges)
        self.pieces = open_inputs(asked.input, self.predictor.units, self.predictor.graph, asked.piece)
        self.done: dict[int, dict[str, Any]] = {}

    def run(self, workers: int) -> None:
        import torch

        from hpc_kit.train.agree import stop_together

        loaded = self.pieces.load(workers, self._is_mine)
        while True:
            piece = next(loaded, None)
            reason, cause, more = stop_together(self.watch, self.group, piece is not None)
            counts = torch.tensor([sum(part["structures"] for part in self.done.values()), len(self.done)])
            structures, parts = self.group.sum(counts).tolist()
            if self.group.is_main:
                self.directory.write_progress(structures, max(structures, self.work.total), "structures")
            if reason:
                loaded.close()
                raise Preempted(f"{reason}; {parts} parts with {structures} structures are done", cause)
            if not more:
                break
            if piece is not None:
                began = time.perf_counter()
                self._write(*piece)
                self.watch.stepped(time.perf_counter() - began)
        told = [json.loads(bytes(one)) for one in self.group.gather(_bytes(self.done))]
        if self.group.is_main:
            self._finish({int(number): part for of_rank in told for number, part in of_rank.items()})

    def _file(self, number: int) -> Path:
        return self.directory.parts / f"part-{number:05d}.{self.work.predict.ending}"

    def _is_mine(self, number: int, key: str) -> bool:
        """Tell whether this rank is to predict the piece: it is its own, and no finished part of it is there."""
        if number % self.group.size != self.group.rank:
            return False
        file = self._file(number)
        try:
            part = json.loads(file.with_suffix(".json").read_text())
            if part["key"] == key and (not part["structures"] or file_sha256(file) == part["sha256"]):
                self.done[number] = part
                return False
        except (OSError, ValueError, KeyError, TypeError):  # missing, or not what was written: made anew
            pass
        return True

    def _write(self, number: int, key: str, arrays: Any, rejects: list[tuple[str, str]]) -> None:
        from hpc_kit.predict.output import Errors, open_output

        asked, file, errors = self.work.predict, self._file(number), Errors()
        found = self.predictor.of_arrays(arrays, rejects, asked.forces, asked.allow_unseen, self.limits)
        if len(found):
            with open_output(file, self.predictor, self.pieces.said) as write:
                write(found)
            errors.add(found)
        part = {
            "file": file.name,
            "key": key,
            "structures": len(found),
            "sha256": file_sha256(file) if len(found) else None,
            "unseen": sum(map(bool, found.unseen)),
            "errors": errors.sums,
            "rejects": found.rejects,
        }
        try:
            write_json(file.with_suffix(".json"), part)
        except OSError as error:
            raise WorkError(f"{file.with_suffix('.json')}: not written: {error.strerror}") from None
        self.done[number] = part
        print(f"{file.name}: {len(found)} structures, {len(found.rejects)} rejected", flush=True)

    def _finish(self, parts: dict[int, dict[str, Any]]) -> None:
        from hpc_kit.predict.output import Errors
        from hpc_kit.predict.predictor import nothing_left

        ordered = [parts[number] for number in sorted(parts)]
        rejects = [(id, reason) for part in ordered for id, reason in part["rejects"]]
        structures = sum(part["structures"] for part in ordered)
        if not structures:
            raise nothing_left(rejects)
        errors = Errors()
        for part in ordered:
            errors.merge(part["errors"])
        report = errors.report(self.predictor.units)
        write_rejects(self.directory.path, rejects)
        content = {
            "structures": structures,
            "rejected": len(rejects),
            "unseen": sum(part["unseen"] for part in ordered),
            "targets": report,
            "units": self.predictor.units,
            "models": len(self.predictor.members),
            "structure": self.pieces.said or "as given",
            "parts": [{k: part[k] for k in ("file", "structures", "sha256")} for part in ordered if part["sha256"]],
        }
        write_json(self.directory.metrics, content)
        lines = [
            *self.pieces.notes,
            f"{structures} structures in {len(content['parts'])} parts",
            *error_lines(report),
        ]
        if rejects:
            lines.append(f"{len(rejects)} rejected: {commonest(reason for _, reason in rejects)}")
        print("\n".join(lines), flush=True)


def _bytes(value: dict[int, Any]) -> Any:
    import numpy as np

    return np.frombuffer(json.dumps(value).encode(), np.uint8)
