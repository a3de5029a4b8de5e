"""The folder of a contribution to JARVIS-Leaderboard, made of a run.

What such a folder holds is what the leaderboard's own checks ask for (its package jarvis_leaderboard 2024.10.30,
rebuild.py): a zipped table a benchmark, metadata.json, run.sh.
"""

import csv
import io
import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_kit.data.manifest import read_manifest
from hpc_kit.files import atomic_path, make_folder, write_atomically, write_json
from hpc_kit.plan import Task
from hpc_kit.runs.fingerprint import read_fingerprint
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.rows import Row, prediction_rows
from hpc_kit.spec.errors import InputError

BENCHMARK = "AI-SinglePropertyPrediction-{target}-dft_3d-test-mae.csv"  # as the leaderboard names its files
SPLIT = "leaderboard"  # as `data prepare jarvis` names a published split
SCRIPT = "#!/bin/bash\n# Trains the models whose predictions are in this folder.\nhpc_kit run job.yaml\n"


@dataclass(frozen=True)
class Submitter:
    """Whom the leaderboard names: `project` is an address on the web that describes the work."""

    team: str
    email: str
    project: str


def write_submission(run: RunDir, folder: Path, who: Submitter, force: bool) -> dict[Path, list[str]]:
    """Write a contribution for each setting and seed of a run: the predictions for the published test part of each
    property. Return folder -> benchmark files.

    Only finished tasks on a published split of JARVIS-DFT count. Raises InputError where there is none, where one
    lacks structures of the published test part, or where a folder is there and `force` is not given.
    """
    plan = run.read_plan()
    rows: dict[str, list[Row]] = {}
    for row in prediction_rows(run, plan):
        rows.setdefault(row["task"], []).append(row)
    groups: dict[str, list[Task]] = {}
    for task in plan.tasks:
        if task.id in rows and getattr(task.work.data.split, "published", None) == SPLIT:
            setting = [f"{key}={value}" for key, value in task.cell.items() if not key.startswith("data.")]
            name = "-".join([plan.name, *setting, f"seed{task.seed}"])
            groups.setdefault(re.sub(r"[^\w.=-]+", "_", name), []).append(task)
    if not groups:
        raise InputError(
            f"{run.path}: has no finished task on a published split of JARVIS-DFT, as data.split:"
            f" {{published: {SPLIT}}} gives"
        )
    tables = {name: _tables(tasks, rows) for name, tasks in groups.items()}
    make_folder(folder, [folder / name for name in groups], force)
    for name, tasks in groups.items():
        _write(run, folder / name, tasks, tables[name], who)
    return {folder / name: list(found) for name, found in tables.items()}


def _tables(tasks: list[Task], rows: dict[str, list[Row]]) -> dict[str, str]:
    """Return the benchmark files of one contribution: name -> its table."""
    tables = {}
    for task in tasks:
        published = read_manifest(Path(task.work.dataset)).splits[SPLIT]["test"]
        missing = set(published) - {row["id"] for row in rows[task.id]}
        if missing:
            raise InputError(
                f"{task.label}: lacks {len(missing)} of the {len(published)} structures of the published test part,"
                f" such as {min(missing)}; the leaderboard takes whole test parts only"
            )
        for target in task.work.data.target:
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["id", "target", "prediction"])
            chosen = (row for row in rows[task.id] if row["target"] == target)
            table.writerows([row["id"], row["true"], row["predicted"]] for row in chosen)
            tables[BENCHMARK.format(target=target)] = text.getvalue()
    return tables


def _write(run: RunDir, folder: Path, tasks: list[Task], tables: dict[str, str], who: Submitter) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in tables.items():
        with atomic_path(folder / f"{name}.zip") as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, text)
    write_json(folder / "metadata.json", _metadata(run, folder.name, tasks, who))
    write_atomically(folder / "job.yaml", run.job_file.read_bytes())
    write_atomically(folder / "run.sh", SCRIPT.encode())


def _metadata(run: RunDir, name: str, tasks: list[Task], who: Submitter) -> dict[str, Any]:
    conditions = [read_fingerprint(run.task(task.id).fingerprint)["comparable"] for task in tasks]
    software = conditions[0]["software"]
    walls = [line["wall_s"] or 0.0 for task in tasks for line in run.task(task.id).read_epochs()]
    return {
        "model_name": name,
        "project_url": who.project,
        "git_url": who.project,
        "team_name": who.team,
        "author_email": who.email,
        "date_submitted": time.strftime("%m-%d-%Y"),
        "software_used": ", ".join(f"{key} {software[key]}" for key in ("hpc_kit", "torch") if software.get(key)),
        "hardware_used": "; ".join(sorted({_hardware(one) for one in conditions})),
        "time_taken_seconds": round(sum(walls), 3),
    }


def _hardware(conditions: dict[str, Any]) -> str:
    gpus = [gpu.get("name") for gpu in conditions["gpus"] if gpu.get("name")]
    return ", ".join(gpus) or str(conditions["cpu"].get("model"))
