"""The training loop: one for all models. Reads top to bottom: data, model, resume, epochs, test, records."""

import math
import random
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import h5py
import numpy as np
import torch

from hpc_kit.data.loader import Dataset
from hpc_kit.data.sampling import Limits, Window
from hpc_kit.data.splits import Parts
from hpc_kit.files import append_line, atomic_path, drop_torn_line, read_lines, write_json
from hpc_kit.models import build_model
from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import WorkError
from hpc_kit.train.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from hpc_kit.train.optim import build_optimizer, learning_rate
from hpc_kit.train.scale import Scale, fit_scale
from hpc_kit.train.setup import open_data, open_device, write_fingerprint


def train(task: Task, out: TaskDir) -> None:
    """Train, validate every epoch, test with the best weights; leave all records of the task but done.json."""
    settings = task.train
    device = open_device(task)
    torch.set_num_threads(task.resources.cpus_per_rank)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(task.seed)

    data, parts = open_data(task, out)
    index = parts.indices
    scale = fit_scale(data, index["train"], per_atom=task.model.sums_over_atoms)
    model = build_model(task.model, task.data.graph).to(device)
    optimizer = build_optimizer(model.parameters(), settings)
    prints = write_fingerprint(task, out, device)

    start, best = _resume(out, model, optimizer)
    limits = Limits(settings.batch_size, settings.batch_atoms, settings.batch_edges)
    for epoch in range(start, settings.epochs):
        began = time.perf_counter()
        plan = data.plan(index["train"], limits, task.seed, epoch)
        steps = math.ceil(sum(len(window.batches) for window in plan) / settings.accumulate)
        rate = [learning_rate(settings, epoch * steps + k, settings.epochs * steps) for k in range(steps)]
        fit = _fit(model, optimizer, data, plan, rate, scale, task, device)
        fitted = time.perf_counter()
        predicted = _predict(model, data, index["val"], scale, settings, device)
        val_mae = _mae(predicted, data.target[index["val"]])
        evaluated = time.perf_counter()
        if not math.isfinite(fit["train_loss"]) or not math.isfinite(val_mae):
            raise WorkError(
                f"epoch {epoch}: the loss is {fit['train_loss']} and the validation MAE {val_mae}; last.pt keeps"
                " the epoch before. Lower train.learning_rate or set train.clip"
            )

        if best["val_mae"] is None or val_mae < best["val_mae"]:
            best = {"val_mae": val_mae, "epoch": epoch}
            save_checkpoint(out.best, {"model": model.state_dict(), "scale": asdict(scale), **best})
        record = {
            "epoch": epoch,
            "started_at": time.time() - (time.perf_counter() - began),
            "wall_s": None,
            "data_wait_s": fit["data_wait_s"],
            "compute_s": fitted - began - fit["data_wait_s"],
            "eval_s": evaluated - fitted,
            "checkpoint_s": None,
            **{count: fit[count] for count in ("graphs", "atoms", "edges")},
            "graphs_per_s": fit["graphs"] / (fitted - began),
            "train_loss": fit["train_loss"],
            "val_mae": val_mae,
            "learning_rate": rate[-1],
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
            "world_size": 1,
            "fingerprint": prints,
        }
        save_checkpoint(
            out.last,
            {
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(),
                "best": best,
                "record": record,
            },
        )
        record["checkpoint_s"] = time.perf_counter() - evaluated
        record["wall_s"] = time.perf_counter() - began
        append_line(out.epochs, record)
        print(
            f"epoch {epoch + 1}/{settings.epochs} loss {record['train_loss']:.4g} val_mae {val_mae:.5g}"
            f" {task.unit} {record['wall_s']:.2f} s",
            flush=True,
        )

    _test(task, out, model, data, parts, scale, best, device)


def _fit(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    plan: list[Window],
    rate: list[float],
    scale: Scale,
    task: Task,
    device: torch.device,
) -> dict[str, Any]:
    """Pass once over the batches of `plan`. Nothing in a step waits for the device; the loss is read at the end."""
    model.train()
    settings = task.train
    error: Callable = {"mse": torch.square, "mae": torch.abs}[settings.loss]
    total = torch.zeros((), device=device)
    waited, atoms, edges = 0.0, 0, 0
    sizes = [len(members) for window in plan for members in window.batches]
    ahead = 2 if task.resources.cpus_per_rank > 1 else 0  # one core gains nothing from a second thread
    batches = data.batches(plan, pin=device.type == "cuda", ahead=ahead)
    for step, lr in enumerate(rate):
        micro = sizes[step * settings.accumulate : (step + 1) * settings.accumulate]
        for _ in micro:
            asked = time.perf_counter()
            batch, _ = next(batches)
            waited += time.perf_counter() - asked
            atoms, edges = atoms + len(batch.z), edges + len(batch.src)
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                out = model(batch)
            errors = error(out.float() - scale.standardize(batch))
            # Divided by the graphs of the whole step, so that accumulating equals one large batch.
            loss = errors.sum() / sum(micro)
            loss.backward()
            total += loss.detach() * sum(micro)
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    train_loss = float(total) / sum(sizes)
    return {
        "train_loss": train_loss, "data_wait_s": waited, "graphs": sum(sizes), "atoms": atoms, "edges": edges
    }  # fmt: skip


@torch.no_grad()
def _predict(
    model: torch.nn.Module, data: Dataset, index: np.ndarray, scale: Scale, settings: Any, device: torch.device
) -> np.ndarray:
    """Return the predictions for `index` in the target's own unit, [len(index)] float64."""
    model.eval()
    predicted = np.empty(len(index))
    order = np.argsort(index)
    for numbers, batch in data.in_order(index, 2 * settings.batch_size):
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            out = model(batch)
        place = order[np.searchsorted(index, numbers, sorter=order)]
        predicted[place] = scale.restore(out.float(), batch).squeeze(1).double().cpu().numpy()
    return predicted


def _test(
    task: Task,
    out: TaskDir,
    model: torch.nn.Module,
    data: Dataset,
    parts: Parts,
    scale: Scale,
    best: dict[str, Any],
    device: torch.device,
) -> None:
    """Predict the test part with the best weights; write predictions.h5 and metrics.json."""
    model.load_state_dict(load_checkpoint(out.best)["model"])
    test = parts.indices["test"]
    truth = data.target[test]
    predicted = _predict(model, data, test, scale, task.train, device) if len(test) else np.empty(0)
    with atomic_path(out.predictions) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["unit"] = task.unit
        file.attrs["target"] = task.data.target
        for name, values in {"ids": data.ids[test], "target": truth, "prediction": predicted}.items():
            file.create_dataset(name, data=values)
    write_json(
        out.metrics,
        {
            "target": task.data.target,
            "unit": task.unit,
            "test_mae": _mae(predicted, truth) if len(test) else None,
            "baseline_mae": _mae(data.target[parts.indices["train"]].mean(), truth) if len(test) else None,
            "best_val_mae": best["val_mae"],
            "best_epoch": best["epoch"],
            "graphs": {part: len(index) for part, index in parts.indices.items()},
            "parameters": sum(p.numel() for p in model.parameters()),
            "scale": asdict(scale),
            "split_sha256": parts.sha256,
        },
    )


def _resume(out: TaskDir, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict]:
    """Load last.pt where there is one; return the next epoch and the best so far. epochs.jsonl is brought in step."""
    if not out.last.exists():
        out.epochs.unlink(missing_ok=True)
        return 0, {"val_mae": None, "epoch": None}
    state = load_checkpoint(out.last)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    restore_random_state(state["random"])
    drop_torn_line(out.epochs)
    if len(read_lines(out.epochs)) == state["epoch"]:  # killed between the checkpoint and its line
        append_line(out.epochs, state["record"])
    print(f"resuming after epoch {state['epoch'] + 1}", flush=True)
    return state["epoch"] + 1, state["best"]


def _mae(predicted: np.ndarray | float, truth: np.ndarray) -> float:
    return float(np.abs(predicted - truth).mean())
