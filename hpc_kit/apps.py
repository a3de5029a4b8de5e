"""Parsl apps for scripts of one's own: each runs all tasks of a job file, one after the other, where Parsl puts it.

    import parsl
    from hpc_kit.apps import prepare_app, train_app
    from hpc_kit.sites import load_site

    site = load_site("delta", account="abcd-delta-gpu")
    with parsl.load(site.parsl_config({"gpus_per_rank": 1, "cpus_per_rank": 16, "walltime": "01:00:00"})):
        data = prepare_app("jobs/prepare-qm9.yaml", "runs/data")
        one = lambda n: train_app("jobs/qm9-zpve.yaml", f"runs/{n}", [f"model.interactions={n}"], inputs=[data])
        fits = [one(n) for n in (3, 6)]
        print([fit.result()["tasks"] for fit in fits])

Not for: `hpc_kit submit`, which keeps a ledger and starts again what outside causes ended.
"""

from collections.abc import Sequence
from typing import Any

from parsl import python_app


@python_app
def train_app(job: str, run: str, sets: Sequence[str] = (), inputs: Sequence = ()) -> dict[str, Any]:
    """Train the tasks of `job` (a file, or the name of one that ships) in the run directory `run`, and return what
    `hpc_kit report --json` prints. `sets` are as for --set; it starts when the futures in `inputs` are done.

    Called again with the same run, it does only what is not done. The future raises WorkError with the end of the
    output where a task fails, InputError where the input is wrong.
    """
    from hpc_kit.apps import run_job

    return run_job("train", job, run, sets)


@python_app
def prepare_app(job: str, run: str, sets: Sequence[str] = (), inputs: Sequence = ()) -> dict[str, Any]:
    """Make the shard set of `job`; the rest as in train_app."""
    from hpc_kit.apps import run_job

    return run_job("prepare", job, run, sets)


@python_app
def search_app(job: str, run: str, sets: Sequence[str] = (), inputs: Sequence = ()) -> dict[str, Any]:
    """Search as `job` says, with all ranks on the node where Parsl puts it; the rest as in train_app."""
    from hpc_kit.apps import run_job

    return run_job("search", job, run, sets)


def run_job(kind: str, job: str, run: str, sets: Sequence[str]) -> dict[str, Any]:
    """Run a job of `kind` to its end in a process of its own and return the summary of its run.

    Raises InputError and WorkError.
    """
    import subprocess
    import sys
    from pathlib import Path

    from hpc_kit.report.summary import summarize
    from hpc_kit.runs.layout import RunDir
    from hpc_kit.spec.errors import InputError, WorkError
    from hpc_kit.spec.job import load_job

    found = load_job(job, sets).job.kind
    if found != kind:
        raise InputError(f"{job}: is a job of kind {found!r}; {kind}_app takes kind {kind!r}")
    words = [word for text in sets for word in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-m", "hpc_kit", "run", job, "--run", run, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise (InputError if done.returncode == 2 else WorkError)((done.stdout + done.stderr)[-2000:])
    return summarize(RunDir(Path(run)))
