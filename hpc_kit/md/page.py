"""What dynamics add to the page of a run: the molecules, how the energy was kept, how bonds and angles are
distributed, and how far that is from the reference. The login side."""

from collections.abc import Iterator
from html import escape
from typing import Any

from hpc_kit.md.summary import JUDGED, JUDGEMENTS, MEANINGS, MOVED, Metrics, ends, judged, moved, speeds
from hpc_kit.plan import Plan
from hpc_kit.runs.layout import RunDir
from hpc_kit.svg import COLOURS, Figure, Marks, Section, plot

Row = dict[str, Any]
# Radius in Angstrom and colour of an element's ball, after Corey, Pauling and Koltun.
_BALLS = {1: (0.22, "#f4f4f4"), 6: (0.36, "#555555"), 7: (0.36, "#3b5bdb"), 8: (0.36, "#d6336c")}
_SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 15: "P", 16: "S", 17: "Cl"}
_SCALE = 26.0  # points an Angstrom


def sections(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections of each task that came to its end."""
    for task in plan.tasks:
        folder = run.task(task.id)
        if folder.is_done():
            yield from sections_of(folder.read_metrics(Metrics), task.label)


def sections_of(made: Row, label: str) -> Iterator[Section]:
    """Yield what there is to see of one task: how it went, the distributions, the transfer."""
    ps = made["steps"] * made["timestep_fs"] / 1000
    text = [
        f"{made['steps']} steps of {made['timestep_fs']:g} fs ({ps:g} ps) at constant energy, from momenta at"
        f" {made['temperature_K']:g} K; a frame every {made['every']} steps."
    ]
    if made["training"]:
        text.append(
            f"Distances are held against {made['training']['of']} ({made['training']['structures']} structures)."
        )
    for field in made["fields"]:
        unseen = [f"{o['pair']} ({o['count']})" for o in field["outside_by_pair"]]
        if unseen:
            text.append(f"{field['name']}: distances that the training never saw: {', '.join(unseen)}.")
    yield Section(
        f"Dynamics, {label}",
        " ".join([*text, *(f"{speed}." for speed in speeds(made)), MEANINGS, *made["told"]]),
        figures=list(_energies(made)),
        columns=MOVED,
        rows=moved(made),
        folded={"Replicas that ended early": "\n".join(ends(made))} if any(ends(made)) else {},
        markup=_pictures(made),
    )
    for field in made["fields"]:
        figures = list(_by_group(made, field))
        if figures:
            yield Section(f"Bonds and angles, forces of {field['name']}", _ABOUT, figures=figures)
    if made["transfer"]:
        yield Section(
            "Transfer",
            f"Reference: {made['reference']}. {JUDGEMENTS}",
            figures=list(_beside_reference(made)),
            columns=JUDGED,
            rows=judged(made),
        )
        yield Section(
            "Distances of distributions to the reference", _ABOUT_W, columns=_GROUPS, rows=list(_groups(made))
        )


_ABOUT = "Lines are means, bands reach from the least to the largest of the replicas."
_ABOUT_W = (
    "W1 is the Wasserstein distance, its 95 % interval comes from drawing blocks of frames; JS is the Jensen-Shannon"
    " distance, 0 for alike and 1 for no overlap."
)
_GROUPS = ("forces of", "molecule", "group", "mean", "reference", "W1", "95 %", "JS")


def _groups(made: Row) -> Iterator[list[str]]:
    for one in made["transfer"]:
        for name, group in one["groups"].items():
            unit = "Å" if group["unit"] == "Angstrom" else "°"
            low, high = group["interval"]
            yield [
                one["field"],
                one["molecule"],
                name,
                f"{group['mean']:.4g} {unit}",
                f"{group['reference_mean']:.4g} {unit}",
                f"{group['wasserstein']:.3g} {unit}",
                f"{low:.3g} to {high:.3g}",
                f"{group['jensen_shannon']:.3f}",
            ]


def _energies(made: Row) -> Iterator[Figure]:
    """Yield the total energy from its start over time, a figure a force field."""
    for field in made["fields"]:
        marks = []
        for colour, one in enumerate(field["molecules"]):
            for n, curve in enumerate(one["curve"].values()):
                label = one["name"] if n == 0 else ""
                marks.append(Marks(curve["ps"], curve["meV"], colour=colour % COLOURS, label=label, faint=n > 0))
        if marks:
            caption = f"Total energy from its start, forces of {field['name']}"
            yield plot(caption, "time, ps", "meV/atom", marks)


def _by_group(made: Row, field: Row) -> Iterator[Figure]:
    """Yield a figure for each pair or triple of heavy elements that has its molecules side by side."""
    for elements in _heavy(field["molecules"]):
        marks, colour = [], 0
        for one in field["molecules"]:
            for name, group in _shown(one["groups"], elements):
                marks += _curve(group, colour, f"{one['name']}{name.removeprefix(elements)}")
                colour += 1
        yield _plotted(f"{elements}, forces of {field['name']}", elements, marks)


def _beside_reference(made: Row) -> Iterator[Figure]:
    """Yield a figure for each molecule and each pair or triple of its heavy elements: all force fields, and the
    reference."""
    for name, reference in made["reference_groups"].items():
        of = [
            (f["name"], m) for f in made["fields"] for m in f["molecules"] if m["name"] == name and f["name"] != "xtb"
        ]
        for elements in _heavy([m for _, m in of]):
            marks = _curve(reference[elements], 0, "reference") if elements in reference else []
            for colour, (field, one) in enumerate(of, 1):
                if elements in one["groups"]:
                    marks += _curve(one["groups"][elements], colour, field)
            yield _plotted(f"{name}: {elements}", elements, marks)


def _heavy(molecules: list[Row]) -> list[str]:
    """Return the groups by elements alone that hold no hydrogen."""
    names = {name for one in molecules for name in one["groups"]}
    return sorted(name for name in names if " " not in name and "H" not in name.split("-"))


def _shown(groups: Row, elements: str) -> list[tuple[str, Row]]:
    """Return the groups of these elements: by their surroundings where these differ, else all as one."""
    parts = [(name, group) for name, group in groups.items() if name.startswith(f"{elements} ")]
    return parts if len(parts) > 1 else [(elements, groups[elements])] if elements in groups else []


def _curve(group: Row, colour: int, label: str) -> list[Marks]:
    band = group["band"]
    width = band["x"][1] - band["x"][0] if len(band["x"]) > 1 else 1.0
    colour %= COLOURS
    bars = Marks(band["x"], band["high"], "bars", colour, y0=band["low"], width=width, faint=True)
    texts = [f"{label}: {x:g}, {y:.3g}" for x, y in zip(band["x"], band["mean"], strict=True)]
    return [bars, Marks(band["x"], band["mean"], colour=colour, label=label, texts=texts)]


def _plotted(caption: str, elements: str, marks: list[Marks]) -> Figure:
    bond = elements.count("-") == 1
    return plot(caption, "bond length, Å" if bond else "angle, degrees", "density", marks)


def _pictures(made: Row) -> str:
    """Return the molecules as they started and as the first force field left them."""
    last = {one["name"]: one["last"] for one in made["fields"][-1]["molecules"]}
    last |= {one["name"]: one["last"] for f in made["fields"] if f["name"] == "model" for one in f["molecules"]}
    cards = []
    for one in made["molecules"]:
        for text, positions in (("start", one["positions"]), ("last frame", last.get(one["name"]))):
            if positions:
                name = escape(f"{one['name']}, {text}")
                cards.append(f'<figure class="card">{ball_and_stick(one, positions, name)}')
                cards.append(f"<figcaption>{name}</figcaption></figure>")
    return f'<div class="cards">{"".join(cards)}</div>'


def ball_and_stick(molecule: Row, positions: list[list[float]], title: str) -> str:
    """Return a picture of a molecule: balls and sticks, seen along the direction in which it is flattest in its start
    geometry's frame."""
    flat = min(range(3), key=lambda k: _spread([p[k] for p in molecule["positions"]]))
    across, up = [k for k in range(3) if k != flat]
    xs, ys = [p[across] for p in positions], [p[up] for p in positions]
    left, top = min(xs) - 0.6, max(ys) + 0.6
    width, height = (max(xs) - left + 0.6) * _SCALE, (top - min(ys) + 0.6) * _SCALE
    places = [((x - left) * _SCALE, (top - y) * _SCALE) for x, y in zip(xs, ys, strict=True)]
    parts = []
    for a, b in molecule["bonds"]:
        (x1, y1), (x2, y2) = places[a], places[b]
        line = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        parts.append(f'<line {line} stroke="#888888" stroke-width="4"/>')
    for i in sorted(range(len(places)), key=lambda i: positions[i][flat]):
        z = molecule["numbers"][i]
        radius, colour = _BALLS.get(z, (0.4, "#2b8a3e"))
        x, y = places[i]
        ball = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius * _SCALE:.1f}"'
        parts.append(
            f'<circle {ball} fill="{colour}" stroke="#333333"><title>{_SYMBOLS.get(z, z)}{i}</title></circle>'
        )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )


def _spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values)
