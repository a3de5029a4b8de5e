"""What maps of features add to a page: the maps of all models side by side, and how rough the properties are over the
features, beside the errors. The login side."""

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from hpc_kit.embed.job import Metrics, correlation_text
from hpc_kit.files import file_sha256
from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.svg import COLOURS, Figure, Marks, Section, plot
from hpc_kit.text import in_unit

SCRIPTS = ("embed/template/maps.js",)
_MODELS = ("model", "features", "target", "MAE", "of", "trustworthiness", "variance in PCA's first 2, 3")
_ROUGH = ("model", "features", "target", "distance", "ROGI", "shuffled", "ROGI-XD", "shuffled", "structures")


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections of each task that came to its end."""
    for task in plan.tasks:
        folder = run.task(task.id)
        if folder.is_done():
            yield from sections_of(folder.path, folder.read_metrics(Metrics))


def sections_of(folder: Path, metrics: dict[str, Any]) -> Iterator[Section]:
    """Yield the sections that say what is in `metrics`; `folder` holds map.json."""
    text = f"{metrics['structures']} structures, the same for every model. {' '.join(metrics['notes'])}"
    markup = _maps(folder / "map.json", metrics["map_sha256"])
    yield Section("Maps of learned features", text, columns=_MODELS, rows=list(_models(metrics)), markup=markup,
                  scripts=SCRIPTS)  # fmt: skip
    if metrics["roughness"]:
        yield _roughness(metrics)


def _models(metrics: dict[str, Any]) -> Iterator[list[str]]:
    for model in metrics["models"]:
        trust = ", ".join(f"{name} {value:.3f}" for name, value in model["trustworthiness"].items())
        shares = ", ".join(f"{sum(model['variance'][:n]):.0%}" for n in (2, 3))
        for target, mae in model["mae"].items():
            error = in_unit(mae, metrics["units"][target])
            yield [model["label"], str(model["width"]), target, error, model["mae_of"], trust, shares]


def _maps(path: Path, sha256: str) -> str:
    """Return the place of the maps, which maps.js draws from the numbers in a script element."""
    try:
        if file_sha256(path) != sha256:
            return f"<p>{escape(str(path))} was changed after the task ended: the maps are not shown.</p>"
        shown = json.loads(path.read_text())
    except (OSError, ValueError):
        return f"<p>{escape(str(path))} cannot be read: the maps are not shown.</p>"
    if not shown["ids"]:
        return "<p>No points were kept for the page (page: 0).</p>"
    count = len(shown["ids"])
    some = "" if count == shown["of"] else f"Shown are {count} of {shown['of']}, drawn at random. "
    why = "" if shown["drawings"] else " Molecules are not drawn: the job did not ask for it, or RDKit was missing."
    text = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="feature-maps"><p class="about">{some}The pointer names a structure in all maps; maps in three'
        f' dimensions turn by dragging.{why}</p><p class="choices"></p><p class="scale"></p>'
        f'<div class="cards"></div><script type="application/json" class="map">{text}</script></div>'
    )


def _roughness(metrics: dict[str, Any]) -> Section:
    first = metrics["roughness"][0]["distance"]
    text = [
        f"Figures: {first} distances. Upper points: the same features with shuffled values. Bars: standard deviation"
        " over subsets of structures, the same for every model."
    ]
    text += [correlation_text(one) + "." for one in metrics["correlations"] if one["distance"] == first]
    text += [note for note in metrics["notes"] if "different width" in note]
    figures = [
        figure
        for target, unit in metrics["units"].items()
        for key, name in (("rogi", "ROGI"), ("rogi_xd", "ROGI-XD"))
        if (figure := _beside_error(metrics, target, unit, first, key, name)) is not None
    ]
    rows = []
    for row in metrics["roughness"]:
        numbers = [_value(row, "rogi"), f"{row['rogi_permuted']:.3f}"]
        numbers += [_value(row, "rogi_xd"), f"{row['rogi_xd_permuted']:.3f}"]
        of = f"{row['subsets']} x {row['size']} of {row['n']}"
        rows.append([row["model"], str(row["width"]), row["target"], row["distance"], *numbers, of])
    return Section("Roughness over learned features", " ".join(text), figures, _ROUGH, rows)


def _value(row: dict[str, Any], key: str) -> str:
    spread = row[f"{key}_sd"]
    return f"{row[key]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _beside_error(
    metrics: dict[str, Any], target: str, unit: str, distance: str, key: str, name: str
) -> Figure | None:
    """Return roughness over error, a point a model; None where no error is known."""
    mae = {model["label"]: model["mae"].get(target) for model in metrics["models"]}
    rows = [r for r in metrics["roughness"] if (r["target"], r["distance"]) == (target, distance)]
    rows = [row for row in rows if mae.get(row["model"]) is not None]
    marks = []
    for number, row in enumerate(rows):
        at, value, colour = mae[row["model"]], row[key], number % COLOURS
        said = f"{row['model']}: {name} {_value(row, key)}, MAE {in_unit(at, unit)}"
        marks.append(Marks([at], [value], "points", colour, row["model"], [said]))
        shuffled = row[f"{key}_permuted"]
        marks.append(Marks([at], [shuffled], "points", colour, "", [f"{row['model']}, shuffled: {shuffled:.3f}"],
                           faint=True))  # fmt: skip
        if (spread := row[f"{key}_sd"]) is not None:
            marks.append(Marks([at, at], [value - spread, value + spread], "line", colour))
    return plot(f"{target}: {name} beside the error", f"MAE [{unit}]", name, marks) if marks else None
