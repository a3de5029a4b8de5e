"""The training loop: one for all models, on any number of ranks. Reads top to bottom: setup, epochs, steps, test."""

import contextlib
import math
import random
import resource
import time
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hpc_kit.data.sampling import Limits, Window
from hpc_kit.files import append_line, drop_torn_line, read_lines, write_json
from hpc_kit.models import build_model
from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import Preempted, WorkError
from hpc_kit.train.checkpoint import load_checkpoint, save_checkpoint
from hpc_kit.train.distributed import Group
from hpc_kit.train.evaluate import errors, predict, report_errors, write_predictions
from hpc_kit.train.faults import first_bad_batch, out_of_memory
from hpc_kit.train.objective import Objective
from hpc_kit.train.optim import build_optimizer, learning_rate
from hpc_kit.train.pretrained import load_weights
from hpc_kit.train.scale import fit_scale
from hpc_kit.train.setup import check_compiler, open_data, write_fingerprint
from hpc_kit.train.state import GradScaler, State
from hpc_kit.train.track import Tracker

LOOK_EVERY = 50  # optimiser steps between two looks at the losses, each of which waits for the device


class Training:
    """One task's training on this rank."""

    def __init__(self, task: Task, out: TaskDir, group: Group, watch: Watch):
        self.task, self.work, self.settings = task, task.work, task.work.train
        self.out, self.group, self.watch = out, group, watch
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(task.seed)
        settings, device = self.settings, group.device
        self.data, self.parts, elements = open_data(task, out, group.is_main)
        self.index = index = self.parts.indices
        self.limits = Limits(settings.batch_size, settings.batch_atoms, settings.batch_edges)
        scale = fit_scale(
            self.data.targets[index["train"]],
            self.data.atoms_per_graph[index["train"]],
            task.work.model.sums_over_atoms,
            None if elements is None else elements[index["train"]],
            settings.atom_references,
        )
        self.model = build_model(task.work.model, task.work.data.graph, len(task.work.data.target)).to(device)
        if settings.start_from:
            load_weights(self.model, task.work.model, settings.start_from)
        ran = self.model
        if settings.compile:
            check_compiler(device)
            ran = torch.compile(self.model, dynamic=True)
        self.objective = Objective(ran, scale, settings, task.work.data.forces).to(device)
        self.judged, ema = self.objective, None
        if settings.ema:
            ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
            self.judged = Objective(ema.module, scale, settings, task.work.data.forces).to(device)
        optimizer = build_optimizer(self.model.parameters(), settings)
        scaler = GradScaler(enabled=settings.precision == "fp16")
        self.state = State(self.model, optimizer, scaler, ema)
        self.wrapped = group.wrap(self.objective)
        self.fingerprint = write_fingerprint(task, out, group)
        self.tracker = Tracker(task, out, group.is_main)

    def run(self) -> None:
        self._resume()
        while self.state.progress.epoch < self.settings.epochs and not self._stops_early():
            record = self._epoch()
            if self.group.is_main:
                append_line(self.out.epochs, record)
                self._tell(record)
                self.tracker.epoch(record)
        metrics = self._test()
        self.tracker.finish(metrics)

    def _tell(self, record: dict[str, Any]) -> None:
        score = {"name": "val MAE", "value": record["val_mae"], "unit": self.work.unit}
        self.out.write_progress(record["epoch"] + 1, self.settings.epochs, "epochs", score)

    def _stops_early(self) -> bool:
        rule = self.settings.early_stopping
        return rule is not None and self.state.progress.stopping.waited >= rule.patience

    def _epoch(self) -> dict[str, Any]:
        """Train and validate once; return the line for epochs.jsonl."""
        progress, settings, epoch = self.state.progress, self.settings, self.state.progress.epoch
        began = time.perf_counter() - progress.wall_s
        progress.started_at = progress.started_at or time.time()
        members = self._fit(began)
        fitted = time.perf_counter()
        found = predict(self.judged, self.data, self.index["val"], self.limits, self.group)
        validation, score = self._validate(found)
        evaluated = time.perf_counter()
        train_loss = math.fsum(progress.losses) / len(members)
        if not math.isfinite(score):
            raise WorkError(
                f"epoch {epoch}: the validation error is {score}; last.pt keeps what was before. Lower"
                " train.learning_rate or set train.clip"
            )
        rate = self.state.optimizer.param_groups[0]["lr"]
        if progress.best.see(score) == 0:
            progress.best_epoch = epoch
            if self.group.is_main:
                save_checkpoint(self.out.best, self._best())
        if settings.early_stopping:
            progress.stopping.see(score, settings.early_stopping.min_delta)
        progress.plateau.reduce(score, settings)
        record = {
            "epoch": epoch,
            "started_at": progress.started_at,
            "wall_s": None,
            "data_wait_s": progress.data_wait_s,
            "compute_s": progress.compute_s,
            "eval_s": evaluated - fitted,
            "checkpoint_s": None,
            "graphs": len(members),
            "atoms": int(self.data.atoms_per_graph[members].sum()),
            "edges": int(self.data.edges_per_graph[members].sum()),
            "graphs_per_s": len(members) / (progress.data_wait_s + progress.compute_s),
            "train_loss": train_loss,
            **validation,
            "learning_rate": rate,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if self.group.device.type == "cuda" else None,
            "world_size": self.group.size,
            "fingerprint": self.fingerprint,
        }
        self.state.progress = progress.next_epoch()
        self._save(record)
        record["checkpoint_s"] = time.perf_counter() - evaluated
        self.watch.stepped(record["checkpoint_s"])
        record["wall_s"] = time.perf_counter() - began
        if self.group.is_main:
            print(
                f"epoch {epoch + 1}/{settings.epochs} loss {train_loss:.4g} val_mae {validation['val_mae']:.5g}"
                f" {self.work.unit} {record['wall_s']:.2f} s",
                flush=True,
            )
        return record

    def _fit(self, began: float) -> np.ndarray:
        """Train on the rest of an epoch's batches; return the graphs of the whole epoch.

        Nothing in a step waits for the device but every LOOK_EVERY steps, where the losses are looked at.
        """
        settings, progress, device = self.settings, self.state.progress, self.group.device
        plan = self.data.plan(self.index["train"], self.limits, self.task.seed, progress.epoch)
        batches = [members for window in plan for members in window.batches]
        steps = math.ceil(len(batches) / settings.accumulate)
        first = progress.batch // settings.accumulate
        losses = torch.zeros(len(batches), dtype=torch.float64, device=device)
        self.objective.train()
        loading = self._load(plan, progress.batch)
        mark, waited, unseen = time.perf_counter(), 0.0, progress.batch
        for step in range(first, steps):
            if reason := self._asked_to_stop():
                self._look(losses, unseen, batches)
                self._spend(mark, waited)
                progress.wall_s = time.perf_counter() - began
                if step > first:  # otherwise last.pt holds all there is, and shows that nothing was added
                    self._save(None)
                held = f"last.pt holds epoch {progress.epoch} up to batch {progress.batch}"
                raise Preempted(f"{reason}; {held}", self.watch.cause)
            started = time.perf_counter()
            micro = batches[step * settings.accumulate : (step + 1) * settings.accumulate]
            whole = np.concatenate(micro)
            counts = (len(whole), int(self.data.atoms_per_graph[whole].sum()))
            for place in range(len(micro)):
                asked = time.perf_counter()
                batch = next(loading)
                waited += time.perf_counter() - asked
                number = step * settings.accumulate + place
                more = place + 1 < len(micro)
                alone = self.group.no_sync(self.wrapped) if more else contextlib.nullcontext()
                with alone, out_of_memory(progress.epoch, number, batch):
                    loss = self.wrapped(batch.to(device), *counts)
                    self.state.scaler.scale(loss).backward()
                losses[number] = loss.detach() * len(whole)
            self._step(progress.epoch * steps + step, settings.epochs * steps)
            progress.batch += len(micro)
            if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
                self._look(losses, unseen, batches)
                unseen = progress.batch
            self.watch.stepped(time.perf_counter() - started)
        self._spend(mark, waited)
        return np.concatenate(batches)

    def _load(self, plan: list[Window], start: int):
        # One core gains nothing from a second thread.
        ahead = 2 if self.task.resources.cpus_per_rank > 1 else 0
        pin = self.group.device.type == "cuda"
        return self.data.batches(plan, start, self.group.rank, self.group.size, pin, ahead)

    def _step(self, step: int, steps: int) -> None:
        """Take one optimiser step with the gradients at hand."""
        settings = self.settings
        if settings.clip is not None:
            self.state.scaler.unscale_(self.state.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        for parameters in self.state.optimizer.param_groups:
            parameters["lr"] = learning_rate(settings, step, steps) * self.state.progress.plateau.factor
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.state.ema is not None:
            self.state.ema.update_parameters(self.model)

    def _asked_to_stop(self) -> str | None:
        """Return why all ranks are to stop now, where any has been asked."""
        reason = self.watch.asked()
        return (reason or "another rank was asked to stop") if self.group.any(reason is not None) else None

    def _look(self, losses: torch.Tensor, start: int, batches: list[np.ndarray]) -> None:
        """Take the losses since batch `start` into the progress. Raises WorkError where one is not finite."""
        end = self.state.progress.batch
        seen = self.group.sum(losses[start:end]).cpu().numpy()
        if not np.isfinite(seen).all():
            raise first_bad_batch(self.state.progress.epoch, start, seen, batches, self.data)
        self.state.progress.losses += seen.tolist()

    def _spend(self, mark: float, waited: float) -> None:
        if self.group.device.type == "cuda":
            torch.cuda.synchronize()
        self.state.progress.data_wait_s += waited
        self.state.progress.compute_s += time.perf_counter() - mark - waited

    def _validate(self, found) -> tuple[dict[str, Any], float]:
        """Return the validation errors for the record, and the score that the best epoch has least of.

        val_mae is in the target's unit; of several targets, the mean of their MAEs, each over its standard deviation.
        The score is val_mae; with forces energy_weight x energy MAE + force_weight x force MAE.
        """
        names = self.work.data.target
        maes = {name: errors(p, t)["mae"] for name, (_, p, t) in found.columns(names, dict.fromkeys(names)).items()}
        if found.forces is not None:
            weights = (self.settings.energy_weight, self.settings.force_weight)
            score = weights[0] * maes[names[0]] + weights[1] * maes["forces"]
            return {"val_mae": maes[names[0]], "val_force_mae": maes["forces"]}, score
        if len(names) == 1:
            return {"val_mae": maes[names[0]]}, maes[names[0]]
        std = self.objective.scale.std.tolist()
        mean = float(np.mean([maes[name] / s for name, s in zip(names, std, strict=True)]))
        return {"val_mae": mean, "val_maes": maes}, mean

    def _best(self) -> dict[str, Any]:
        """Return what best.pt holds: the weights, and all that is needed to predict with them."""
        return {
            "model": self.state.judged.state_dict(),
            "scale": self.objective.scale.describe(),
            "spec": self.work.model.model_dump(),
            "graph": self.work.data.graph.model_dump(),
            "targets": list(self.work.data.target),
            "epoch": self.state.progress.best_epoch,
            "score": self.state.progress.best.best,
        }

    def _save(self, record: dict[str, Any] | None) -> None:
        if self.group.is_main:
            self.state.save(self.out.last, record)

    def _resume(self) -> None:
        """Take up last.pt where there is one, and bring epochs.jsonl in step with it."""
        out, main = self.out, self.group.is_main
        if not out.last.exists():
            if main:
                out.epochs.unlink(missing_ok=True)
            return
        record = self.state.load(out.last)
        if main:
            progress = self.state.progress
            drop_torn_line(out.epochs)
            if len(read_lines(out.epochs)) < progress.epoch:  # killed between the checkpoint and its line
                append_line(out.epochs, record)
            where = f", batch {progress.batch}" if progress.batch else ""
            print(f"resuming at epoch {progress.epoch + 1}{where}", flush=True)

    def _test(self) -> dict[str, Any]:
        """Predict the test part with the best weights; write predictions.h5 and metrics.json."""
        task, names = self.task, self.work.data.target
        self.group.barrier()
        self.state.judged.load_state_dict(load_checkpoint(self.out.best)["model"])
        found = predict(self.judged, self.data, self.index["test"], self.limits, self.group)
        units = task.work.units
        mean = self.data.targets[self.index["train"]].mean(axis=0)
        metrics = {
            "targets": report_errors(found, names, units, mean, task.work.data.reference_mae),
            "best_val_score": self.state.progress.best.best,
            "best_epoch": self.state.progress.best_epoch,
            "epochs": self.state.progress.epoch,
            "graphs": {part: len(index) for part, index in self.index.items()},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "scale": self.objective.scale.describe(),
            "split_sha256": self.parts.sha256,
        }
        if self.group.is_main:
            write_predictions(self.out.predictions, found, self.data.ids, names, units)
            write_json(self.out.metrics, metrics)
        return metrics
