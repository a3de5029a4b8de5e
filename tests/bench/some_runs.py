"""Runs over a grid with records as tasks leave them, made without training."""

from pathlib import Path

from conftest import small_run

from hpc_kit.files import append_lines, write_json
from hpc_kit.plan import SCHEMA
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.ledger import Ledger

GRID = "grid={model.interactions: [1, 2], train.learning_rate: [1e-3, 2e-3]}"


def grid_run(
    path: Path, mae, epoch_s, *overrides: str, failed: dict[str, str] | None = None, epochs: int = 5
) -> RunDir:
    """Make a run over a grid whose tasks are done. mae, epoch_s: functions of a task's cell (a tuple of values) and
    seed. failed: part of a label -> why these tasks failed."""
    run = small_run(path, *(overrides or (GRID, "seeds=[0, 1, 2]")))
    tasks = run.read_plan().tasks
    ledger = Ledger(run.ledger, [task.id for task in tasks])
    for task in tasks:
        folder, place = run.task(task.id), tuple(task.cell.values())
        reason = next((why for part, why in (failed or {}).items() if part in task.label), None)
        if reason:
            ledger.submit([task.id])
            ledger.end(task.id, "failed", reason)
            continue
        errors = {"test_mae": mae(place, task.seed), "test_rmse": 1.0, "test_r2": 0.5, "baseline_mae": 2.0}
        targets = {name: {"unit": unit, **errors} for name, unit in task.work.units.items()}
        write_json(folder.metrics, {"targets": targets, "graphs": {"train": 8, "val": 1, "test": 1}, "parameters": 7})
        wall = epoch_s(place, task.seed)
        walls = [10 * wall] + [wall] * (epochs - 1)  # the first epoch warms up
        append_lines(
            folder.epochs,
            [{"epoch": n, "wall_s": w, "data_wait_s": 0.0, "compute_s": w, "graphs": 8} for n, w in enumerate(walls)],
        )
        folder.write_done(SCHEMA)
    return run
