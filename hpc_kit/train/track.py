"""Weights & Biases beside the records: all that is in the files, and nothing that could fail a run."""

from pathlib import Path
from typing import Any

from hpc_kit.plan import Task
from hpc_kit.runs.layout import TaskDir


class Tracker:
    """Copies records to W&B where the job asks for it (`track:`). What goes wrong is said once in the log."""

    def __init__(self, task: Task, out: TaskDir, main: bool):
        self._run = None
        if task.work.track is None or not main:
            return
        self._try("start", lambda: self._start(task, out))

    def epoch(self, record: dict[str, Any]) -> None:
        """Copy a line of epochs.jsonl."""
        self._try("log", lambda: self._run.log(_numbers(record), step=record["epoch"]))

    def finish(self, metrics: dict[str, Any]) -> None:
        """Copy metrics.json and close; the offline copy then lies in the task's `wandb` folder."""

        def close() -> None:
            self._run.summary.update(metrics)
            self._run.finish()

        self._try("finish", close)
        self._run = None

    def _start(self, task: Task, out: TaskDir) -> None:
        import wandb

        self._run = wandb.init(
            mode=task.work.track.wandb,
            project=task.work.track.project,
            id=task.id,
            name=task.id,
            group=_group(out.run.path),
            dir=str(out.path),
            config=task.model_dump(exclude={"folders": True, "work": {"dataset", "track"}}),
            resume="allow" if task.work.track.wandb == "online" else None,
            settings=wandb.Settings(init_timeout=60, silent=True, disable_git=True, disable_code=True, console="off"),
        )

    def _try(self, what: str, call) -> None:
        if self._run is None and what != "start":
            return
        try:
            call()
        except Exception as error:  # whatever a tracker's library raises, the training goes on
            print(
                f"track.wandb: could not {what} ({type(error).__name__}: {error}); the records are in files",
                flush=True,
            )
            self._run = None


def _group(run: Path) -> str:
    """Return what the tasks of a run stand under there: the run's name; of the trials of a search, the search's."""
    return run.parent.name if run.parent.parent.name == "tasks" else run.name


def _numbers(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the numbers and texts of a record, nested ones as `outer/inner`."""
    flat = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{prefix}{key}/")
        elif value is not None:
            flat[prefix + key] = value
    return flat
