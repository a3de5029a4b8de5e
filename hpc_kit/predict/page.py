"""What predictions add to the page of a run: how many there are, where, and how wrong where the truth is known. The
login side."""

from collections.abc import Iterator

from hpc_kit.plan import Plan
from hpc_kit.predict.job import Metrics
from hpc_kit.runs.layout import RunDir
from hpc_kit.svg import Section
from hpc_kit.text import in_unit

_COLUMNS = ("target", "MAE", "RMSE", "R²", "true values")


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the section of each prediction that came to its end."""
    for task in plan.tasks:
        folder = run.task(task.id)
        if not folder.is_done():
            continue
        made = folder.read_metrics(Metrics)
        text = f"{made['structures']} structures in {len(made['parts'])} parts in {folder.parts}."
        if made["rejected"]:
            text += f" {made['rejected']} were rejected: rejects.jsonl of the task says why, by identifier."
        text += "" if made["targets"] else " The input states no true values to compare with."
        rows = []
        for name, found in made["targets"].items():
            mae, rmse = (in_unit(found[key], found["unit"]) for key in ("mae", "rmse"))
            rows.append([name, mae, rmse, _number(found["r2"]), str(found["n"])])
        yield Section("Predictions", text, columns=_COLUMNS if rows else (), rows=rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
