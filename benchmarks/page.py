"""Size of a run's page and the time to make it: 30 tasks of 100 epochs, tested on as many structures as QM9 leaves.

The records are made up, at the size of real ones: what is measured is the page. python benchmarks/page.py
"""

import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from hpc_kit.files import append_lines, write_json
from hpc_kit.plan import make_plan
from hpc_kit.report.page import write_page
from hpc_kit.runs import fingerprint
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site

EPOCHS, TESTED = 100, 13_083
SETS = ["grid={train.learning_rate: [1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5]}", "seeds=[0, 1, 2, 3, 4]"]
PARTS = {"data_wait_s": 0.1, "compute_s": 8.0, "eval_s": 0.5, "checkpoint_s": 0.1}


def make_run(path: Path, tested: int) -> RunDir:
    """Write a run whose 30 tasks look finished."""
    file = load_job("quickstart", [*SETS, f"train.epochs={EPOCHS}"])
    plan = make_plan(file)
    run, random = create_run(path, plan, file.job, load_site("local")), np.random.default_rng(0)
    conditions = fingerprint.collect({}, {})
    for task in plan.tasks:
        folder = run.task(task.id)
        lines = [
            {
                "epoch": n, "graphs": 110000, "graphs_per_s": random.normal(13000, 100),
                "wall_s": sum(PARTS.values()) + 0.1, **PARTS,
                "train_loss": float(np.exp(-n / 20)), "val_mae": 0.7 * float(np.exp(-n / 20)) + 0.01,
                "grad_norm": float(random.uniform(0.1, 2)), "peak_rss_mb": 900.0, "peak_gpu_mb": None,
            }
            for n in range(EPOCHS)
        ]  # fmt: skip
        append_lines(folder.epochs, lines)
        truth = random.normal(4.0, 0.8, tested)
        predicted = truth + random.standard_t(3, tested) * 0.01
        with h5py.File(folder.predictions, "w") as out:
            out["ids"] = np.array([f"gdb_{n}".encode() for n in range(tested)])
            for kind, values in (("targets", truth), ("predictions", predicted)):
                out[f"{kind}/zpve"] = values
                out[f"{kind}/zpve"].attrs["unit"] = "eV"
        mae = float(np.abs(predicted - truth).mean())
        errors = {"unit": "eV", "test_mae": mae, "test_rmse": mae, "test_r2": 1.0, "baseline_mae": 0.67}
        graphs = {"train": 110000, "val": 10000, "test": tested}
        write_json(folder.metrics, {"targets": {"zpve": errors}, "graphs": graphs, "split_sha256": "0" * 64})
        write_json(folder.fingerprint, conditions)
        folder.write_done(task.schema_version)
    return run


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for tested in (1000, TESTED):
            run = make_run(Path(folder) / str(tested), tested)
            began = time.perf_counter()
            size = write_page(run, Path(folder) / f"{tested}.html", force=False)
            seconds = time.perf_counter() - began
            print(f"30 tasks, {tested} structures each: {size / 1e6:.2f} MB (bound 6), {seconds:.2f} s")


if __name__ == "__main__":
    main()
