"""What a training writes down: the line of an epoch in epochs.jsonl, its score, best.pt, metrics.json."""

import math
import resource
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from hpc_kit.data.loader import Dataset
from hpc_kit.data.splits import Parts
from hpc_kit.files import append_line, drop_torn_line
from hpc_kit.runs.layout import TaskDir
from hpc_kit.runs.records import Epoch, read_lines
from hpc_kit.train.best import Best
from hpc_kit.train.checkpoint import load_checkpoint
from hpc_kit.train.distributed import Group
from hpc_kit.train.evaluate import Predictions, errors, report_errors
from hpc_kit.train.job import Work
from hpc_kit.train.scale import Scale
from hpc_kit.train.state import Progress, State


def validation_errors(predictions: Predictions, work: Work, scale: Scale) -> tuple[dict[str, Any], float]:
    """Return the validation errors for the record, and the score that the best epoch has least of.

    val_mae is in the target's unit; of several targets, the mean of their MAEs, each over its standard deviation.
    The score is val_mae; with forces energy_weight x energy MAE + force_weight x force MAE.
    """
    names = work.data.target
    maes = {name: errors(p, t)["mae"] for name, (_, p, t) in predictions.columns(names, dict.fromkeys(names)).items()}
    if predictions.forces is not None:
        found = {"val_mae": maes[names[0]], "val_force_mae": maes["forces"]}
    elif len(names) == 1:
        found = {"val_mae": maes[names[0]]}
    else:
        mean = float(np.mean([maes[name] / s for name, s in zip(names, scale.std.tolist(), strict=True)]))
        found = {"val_mae": mean, "val_maes": maes}
    return found, work.score(found)


def epoch(
    progress: Progress,
    members: np.ndarray,
    data: Dataset,
    validation: dict[str, Any],
    learning_rate: float,
    group: Group,
    fingerprint: str,
) -> dict[str, Any]:
    """Return the line for epochs.jsonl. What it costs to write is not known yet: wall_s, cpu_s and checkpoint_s."""
    spent = asdict(progress.spent)
    norms = [norm for norm in progress.norms if math.isfinite(norm)]  # fp16 leaves out the steps of others
    return {
        "epoch": progress.epoch,
        "started_at": spent["started_at"],
        "wall_s": None,
        "cpu_s": None,
        "grad_norm": math.fsum(norms) / len(norms) if norms else None,
        "data_wait_s": spent["data_wait_s"],
        "compute_s": spent["compute_s"],
        "eval_s": spent["eval_s"],
        "checkpoint_s": None,
        "graphs": len(members),
        "atoms": int(data.atoms_per_graph[members].sum()),
        "edges": int(data.edges_per_graph[members].sum()),
        "graphs_per_s": len(members) / (spent["data_wait_s"] + spent["compute_s"]),
        "train_loss": math.fsum(progress.losses) / len(members),
        **validation,
        "learning_rate": learning_rate,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if group.device.type == "cuda" else None,
        "world_size": group.size,
        "fingerprint": fingerprint,
    }


def tell_progress(out: TaskDir, progress: Progress, work: Work) -> None:
    """Write progress.json; its score is that of the best epoch."""
    name, unit = ("val score", "") if work.data.forces else ("val MAE", work.unit)
    score = {"name": name, "value": progress.best.best, "unit": unit}
    out.write_progress(progress.epoch, work.train.epochs, "epochs", None if progress.best_epoch is None else score)


def log_line(record: dict[str, Any], work: Work) -> str:
    """Return what the log says of an epoch."""
    return (
        f"epoch {record['epoch'] + 1}/{work.train.epochs} loss {record['train_loss']:.4g}"
        f" val_mae {record['val_mae']:.5g} {work.unit} {record['wall_s']:.2f} s"
    )


def metrics(
    found: Predictions,
    best: Best,
    work: Work,
    data: Dataset,
    parts: Parts,
    state: State,
    scale: Scale,
) -> dict[str, Any]:
    """Return the content of metrics.json. found: predictions of the test part, by best.pt."""
    mean = data.targets[parts.indices["train"]].mean(axis=0)
    return {
        "targets": report_errors(found, work.data.target, work.units, mean, work.data.reference_mae),
        "best_val_score": best.score,
        "best_epoch": best.epoch,
        "epochs": state.progress.epoch,
        "graphs": {part: len(index) for part, index in parts.indices.items()},
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "scale": scale.describe(),
        "split_sha256": parts.sha256,
    }


def catch_up(out: TaskDir, progress: Progress, resumed: bool, record: dict[str, Any] | None) -> None:
    """Bring epochs.jsonl in step with last.pt, which holds the last epoch's record; say where training goes on.

    Raises WorkError where best.pt, which nothing but the test needs, is damaged: now, not after the last epoch.
    """
    if not resumed:
        out.epochs.unlink(missing_ok=True)
        return
    if progress.best_epoch is not None:
        load_checkpoint(out.best)
    drop_torn_line(out.epochs)
    written = {line["epoch"] for line in read_lines(out.epochs, Epoch)}
    if record is not None and record["epoch"] not in written:  # killed before the line was written, or it is damaged
        append_line(out.epochs, record)
    where = f", batch {progress.batch}" if progress.batch else ""
    print(f"resuming at epoch {progress.epoch + 1}{where}", flush=True)
