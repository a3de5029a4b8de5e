"""The training loop: one for all models, on any number of ranks. Reads top to bottom: setup, epochs, steps, test."""

import contextlib
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch

from hpc_kit.data.sampling import Limits, Window
from hpc_kit.files import append_line, write_json
from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import Preempted, WorkError
from hpc_kit.spec.walltime import in_seconds
from hpc_kit.train import written
from hpc_kit.train.agree import read_together, stop_together
from hpc_kit.train.best import build_best, content_of
from hpc_kit.train.checkpoint import parse_checkpoint, save_checkpoint
from hpc_kit.train.distributed import Group
from hpc_kit.train.evaluate import Predictions, predict, write_predictions
from hpc_kit.train.faults import check_predictions, out_of_memory
from hpc_kit.train.measured import Measured
from hpc_kit.train.optim import gradient_norm, learning_rate
from hpc_kit.train.setup import assemble, open_data, write_fingerprint
from hpc_kit.train.state import Clock
from hpc_kit.train.track import Tracker


class Training:
    """One task's training on this rank: `run`, or `epochs` for as long as the caller wants and then `test`."""

    def __init__(
        self, task: Task, out: TaskDir, group: Group, watch: Watch, environment: Mapping[str, str] = os.environ
    ):
        self.task, self.work, self.settings = task, task.work, task.work.train
        self.out, self.group, self.watch = out, group, watch
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(task.seed)
        self.data, self.parts, elements = open_data(task, out, group.is_main, environment)
        self.index = self.parts.indices
        self.limits = Limits(self.settings.batch_size, self.settings.batch_atoms, self.settings.batch_edges)
        built = assemble(task.work, self.data, self.index["train"], elements, group.device, environment)
        self.objective, self.eval_objective, self.state = built
        self.parameters = list(self.state.model.parameters())
        self.wrapped = group.wrap(self.objective)
        self.fingerprint = write_fingerprint(task, out, group)
        self.tracker = Tracker(task, out, group.is_main)
        self.saved, self.saved_at = self.state.progress.place, time.monotonic()

    def run(self) -> None:
        for record in self.epochs():
            self.tracker.epoch(record)
        self.tracker.finish(self.test())

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Go on from where an earlier attempt came to, an epoch at a time; yield each epoch's line of epochs.jsonl.

        When a record comes, all of its epoch is on disk; the next epoch begins when the next record is asked for.
        """
        self._resume()
        while self.state.progress.epoch < self.settings.epochs and not self._stops_early():
            record = self._epoch()
            if self.group.is_main:
                append_line(self.out.epochs, record)
                written.tell_progress(self.out, self.state.progress, self.work)
            yield record

    def _stops_early(self) -> bool:
        rule = self.settings.early_stopping
        return rule is not None and self.state.progress.stopping.waited >= rule.patience

    def _epoch(self) -> dict[str, Any]:
        """Train and validate once; return the line for epochs.jsonl."""
        progress, settings, epoch = self.state.progress, self.settings, self.state.progress.epoch
        self.clock = clock = Clock(progress.spent)
        members = self._fit()
        found = self._predict("val", f"epoch {epoch}, whose validation is left")
        validation, score = written.validation_errors(found, self.work, self.objective.scale)
        clock.lap("eval_s")
        rate = self.state.optimizer.param_groups[0]["lr"]
        if progress.best.see(score) == 0:
            progress.best_epoch = epoch
            if self.group.is_main:
                content = content_of(self.state, self.work, self.objective.scale, self.data.manifest)
                save_checkpoint(self.out.best, content)
        if settings.early_stopping:
            progress.stopping.see(score, settings.early_stopping.min_delta)
        progress.plateau.reduce(score, settings)
        record = written.epoch(progress, members, self.data, validation, rate, self.group, self.fingerprint)
        self.state.progress = progress.next_epoch()
        self._save(record)
        self.watch.stepped(clock.lap("checkpoint_s"))
        record |= {name: getattr(clock.spent, name) for name in ("wall_s", "cpu_s", "checkpoint_s")}
        if self.group.is_main:
            print(written.log_line(record, self.work), flush=True)
        return record

    def _fit(self) -> np.ndarray:
        """Train on the rest of an epoch's batches; return the graphs of the whole epoch.

        Nothing in a step waits for a GPU but the looks at losses and gradient norms every few steps.
        """
        settings, progress, clock, phases = self.settings, self.state.progress, self.clock, self.group.phases
        accumulate = settings.accumulate
        plan = self.data.plan(self.index["train"], self.limits, self.task.seed, progress.epoch)
        batches = [members for window in plan for members in window.batches]
        measured = Measured(batches, accumulate, self.state, self.group)
        self.objective.train()
        loading = self._load(plan, progress.batch)
        for step in range(math.ceil(progress.batch / accumulate), measured.steps):
            reason, cause, is_due = stop_together(self.watch, self.group, self._checkpoint_is_due())
            if reason or is_due:
                measured.look(self.objective, self.data)
                self._settle()
            if reason:
                self._stop(reason, cause, f"epoch {progress.epoch} up to batch {progress.batch}")
            if is_due:
                self._save(None)
                self.watch.stepped(clock.lap("checkpoint_s"))
            micro = batches[step * accumulate : (step + 1) * accumulate]
            whole = np.concatenate(micro)
            counts = (len(whole), int(self.data.atoms_per_graph[whole].sum()))
            took = 0.0
            for place in range(len(micro)):
                took += clock.lap("compute_s")
                batch = next(loading)
                took += clock.lap("data_wait_s")
                number = step * accumulate + place
                more = place + 1 < len(micro)
                alone = self.group.no_sync(self.wrapped) if more else contextlib.nullcontext()
                with alone, out_of_memory(progress.epoch, number, batch):
                    phases.begin()
                    batch = batch.to(self.group.device)
                    phases.lap("transfer_s")
                    loss = self.wrapped(batch, *counts)
                    phases.lap("forward_s")
                    self.state.scaler.scale(loss).backward()
                    phases.lap("backward_s")
                measured.losses[number] = loss.detach() * len(whole)
            measured.norms[step] = self._clip()
            progress.batch += len(micro)
            if measured.is_due(step):
                measured.look(self.objective, self.data)
            self._step(progress.epoch * measured.steps + step, settings.epochs * measured.steps)
            phases.lap("optimizer_s")
            self.watch.stepped(took + clock.lap("compute_s"))
        self._settle()
        return np.concatenate(batches)

    def _load(self, plan: list[Window], start: int):
        # One core gains nothing from a second thread.
        ahead = 2 if self.task.resources.cpus_per_rank > 1 else 0
        pin = self.group.device.type == "cuda"
        return self.data.batches(plan, start, self.group.rank, self.group.size, pin, ahead)

    def _clip(self) -> torch.Tensor:
        """Return the norm of the gradient at hand, and bound it where the job says so."""
        self.state.scaler.unscale_(self.state.optimizer)
        if self.settings.clip is None:
            return gradient_norm(self.parameters)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)

    def _step(self, step: int, steps: int) -> None:
        """Take one optimiser step with the gradient at hand."""
        for parameters in self.state.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.settings, step, steps) * self.state.progress.plateau.factor
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.state.ema is not None:
            self.state.ema.update_parameters(self.state.model)

    def _settle(self) -> None:
        """Wait for the device, so that its work is counted to training."""
        if self.group.device.type == "cuda":
            torch.cuda.synchronize()
        self.clock.lap("compute_s")

    def _predict(self, part: str, held: str) -> Predictions:
        """Predict a part of the data. A stop is noticed between two batches; last.pt then holds what `held` says."""
        mark = time.perf_counter()

        def meet(more: bool) -> bool:
            nonlocal mark
            self.watch.stepped(time.perf_counter() - mark)
            reason, cause, more = stop_together(self.watch, self.group, more)
            if reason:
                self.clock.lap("eval_s")
                self._stop(reason, cause, held)
            mark = time.perf_counter()
            return more

        found = predict(self.eval_objective, self.data, self.index[part], self.limits, self.group, meet)
        check_predictions(found, self.data, part)
        return found

    def _stop(self, reason: str, cause: str, held: str) -> NoReturn:
        """End this attempt; last.pt stays where it holds all there is, which shows that nothing was added."""
        if self.state.progress.place != self.saved:
            self._save(None)
        raise Preempted(f"{reason}; last.pt holds {held}", cause)

    def _checkpoint_is_due(self) -> bool:
        every = self.settings.checkpoint_every
        if every is None or not self.group.is_main or self.state.progress.place == self.saved:
            return False
        return time.monotonic() - self.saved_at > in_seconds(every)

    def _save(self, record: dict[str, Any] | None) -> None:
        if self.group.is_main:
            self.state.save(self.out.last, record)
        self.saved, self.saved_at = self.state.progress.place, time.monotonic()

    def _resume(self) -> None:
        """Take up last.pt where there is one, and bring the records in step with it."""
        content = read_together(self.out.last, self.group)
        record = None if content is None else self.state.load(self.out.last, content)
        self.saved = self.state.progress.place
        if self.group.is_main:
            written.catch_up(self.out, self.state.progress, content is not None, record)
            written.tell_progress(self.out, self.state.progress, self.work)

    def test(self) -> dict[str, Any]:
        """Predict the test part with the best weights; write predictions.h5 and metrics.json, and return that."""
        self.group.barrier()
        content = read_together(self.out.best, self.group)
        if content is None:
            raise WorkError(f"{self.out.best}: is gone. Remove last.pt too to train from the first epoch")
        fields = parse_checkpoint(self.out.best, content)
        best = build_best(self.out.best, fields, [getattr(self.work.model, "module", "")])
        self.eval_objective = best.objective(self.settings).to(self.group.device)  # as whoever predicts with the file
        self.clock = Clock(self.state.progress.spent)
        found = self._predict("test", "all epochs; the test is left")
        metrics = written.metrics(found, best, self.work, self.data, self.parts, self.state, self.objective.scale)
        if self.group.is_main:
            write_predictions(self.out.predictions, found, self.data.ids, self.work.data.target, self.work.units)
            write_json(self.out.metrics, metrics)
        return metrics
