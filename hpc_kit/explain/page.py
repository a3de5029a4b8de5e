"""What explanations add to a page: the gallery in two and three dimensions, what each element and role contributes,
and the tests of trust beside it. The login side."""

import base64
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from hpc_kit.explain.job import Metrics, verdicts
from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.svg import Section
from hpc_kit.text import in_unit

SCRIPTS = ("explain/template/3Dmol-min.js", "explain/template/viewer.js")
_COLUMNS = ("model", "map", "atom", "number", "mean", "SD", "above its structure's mean", "weight")
SIGNED = ("cam", "grad_cam")
_MOST_ROWS = 14


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the section of each task that came to its end."""
    for task in plan.tasks:
        folder = run.task(task.id)
        if folder.is_done():
            yield section_of(folder.path, folder.read_metrics(Metrics))


def section_of(folder: Path, metrics: dict[str, Any]) -> Section:
    """Return the section that says what is in `metrics`; `folder` holds the pictures it names."""
    return Section(
        f"Which atoms carry {metrics['target']}",
        " ".join(_told(metrics)),
        columns=_COLUMNS,
        rows=list(_roles(metrics)),
        markup=_gallery(folder, metrics) + _trust(metrics),
        scripts=SCRIPTS,
    )


def _told(metrics: dict[str, Any]) -> Iterator[str]:
    for model in metrics["models"]:
        seeds = f", mean of {model['seeds']} seeds" if model["seeds"] > 1 else ""
        error = "" if model["mae"] is None else f", MAE {in_unit(model['mae'], metrics['unit'])}"
        yield f"{model['label']}{seeds}: {model['structures']} structures{error}."
        if model["rejected"]:
            yield f"{model['rejected']} were rejected: {model['why_rejected']}."
        for method, rest in model["remainder"].items():
            largest = in_unit(rest["largest"], metrics["unit"], ".3g")
            yield f"{method}: baseline and contributions miss the prediction by {largest} at most."
        apart = ", ".join(
            f"{name.replace('_', ' ')} {in_unit(v, metrics['unit'])}" for name, v in model["baseline"].items()
        )
        yield f"Apart from the atoms, on average: {apart}."


def _roles(metrics: dict[str, Any]) -> Iterator[list[str]]:
    for model in metrics["models"]:
        for method, rows in model["roles"].items():
            unit = metrics["unit"] if method in SIGNED else ""
            shown = [row for row in rows if row["kind"] == "element"]
            shown += [row for row in rows if row["kind"] == "role"][:_MOST_ROWS]
            for row in shown:
                numbers = (in_unit(row[key], unit, ".3g") for key in ("mean", "sd", "above_mean"))
                yield [model["label"], method, row["name"], str(row["atoms"]), *numbers, f"{row['weight']:.2f}"]


def _gallery(folder: Path, metrics: dict[str, Any]) -> str:
    """Return the gallery: a picture a structure, model and method, of which one is shown, and the place of the view
    in three dimensions, which viewer.js fills from the numbers in a script element."""
    if not metrics["gallery"]:
        return ""
    methods = metrics["methods"]
    units = metrics["models"][0]["units"]
    cards = []
    for number, entry in enumerate(metrics["gallery"]):
        pictures = []
        for label, model in entry["models"].items():
            for method in methods:
                files = model["pictures"].get(method, {})
                if source := _source(folder, files):
                    key, about = escape(f"{label}|{method}"), escape(f"{entry['id']}, {label}, {method}")
                    pictures.append(f'<img data-key="{key}" alt="{about}" src="{source}" width="270" hidden>')
        told = [f"<b>{escape(entry['id'])}</b>"]
        for label, model in entry["models"].items():
            told.append(f"{escape(label)} {escape(in_unit(model['prediction'], metrics['unit'], '.5g'))}")
        if entry["true"] is not None:
            told.append(f"true {escape(in_unit(entry['true'], metrics['unit'], '.5g'))}")
        cards.append(
            f'<figure class="card" data-number="{number}">{"".join(pictures)}<figcaption>{"<br>".join(told)}<br>'
            f'<button type="button">in 3-D</button></figcaption></figure>'
        )
    data = {
        "unit": metrics["unit"],
        "units": units,
        "methods": methods,
        "relu": metrics["relu"],
        "models": [model["label"] for model in metrics["models"]],
        "signed": [m for m in methods if m in SIGNED and not metrics["relu"]],
        "structures": metrics["gallery"],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<div class="explained"><p class="choices"></p><div class="three"><div class="view"></div>'
        f'<p class="about"></p></div><div class="cards">{"".join(cards)}</div>'
        f'<script type="application/json" class="structures">{text}</script></div>'
    )


def _source(folder: Path, files: dict[str, str]) -> str:
    """Return a picture as text of the page: it is shown as a picture, so nothing in it can run."""
    for form, kind in (("svg", "image/svg+xml"), ("png", "image/png")):
        path = folder / "pictures" / Path(files.get(form, "")).name
        if form in files and path.is_file():
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return ""


def _trust(metrics: dict[str, Any]) -> str:
    """Return the outcome of the tests as a list."""
    items = []
    for model in metrics["models"]:
        for method, found in model["trust"].items():
            said = escape("; ".join(verdicts(found)))
            of = f"<b>{escape(model['label'])}, {escape(method)}</b> ({found['structures']} structures)"
            items.append(f"<li>{of}: {said}.</li>")
    for method, pairs in metrics["between"].items():
        for pair, found in pairs.items():
            said = f"{pair}: Spearman {found['spearman']:.2f} over {found['structures']} structures"
            items.append(f"<li><b>{escape(method)}</b>, agreement of {escape(said)}.</li>")
    if not items:
        return "<p>Whether these maps can be trusted was not asked (trust).</p>"
    return f'<h3>Can these maps be trusted?</h3><ul class="trust">{"".join(items)}</ul>'
