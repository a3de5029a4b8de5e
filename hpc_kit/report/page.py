"""The page of a run: one HTML file with everything in it, that opens without a network.

What is said of every kind stands here; each kind adds its sections (page.py of its room). Text from records is
escaped by the template, never markup.
"""

import time
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hpc_kit import __version__, kinds
from hpc_kit.files import write_atomically
from hpc_kit.plan import Plan
from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.fingerprint import read_fingerprint
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.ledger import ENDS
from hpc_kit.runs.records import BlockLine, LedgerLine, read_bytes, read_lines
from hpc_kit.runs.status import TaskStatus, read_statuses
from hpc_kit.runs.used import used
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.svg import Section, Span, timeline

LOG_LINES = 12
FEW = 4  # tasks named in a row
MOST_ROWS = 60  # of a timeline
COLOUR_OF = {"done": 3, "started": 5, "failed": 6, "out_of_memory": 6, "block": 0}  # all other ends: OTHER_END
OTHER_END = 1
LEGEND = [(3, "done"), (5, "under way"), (6, "failed, out of memory"), (1, "ended from outside"), (0, "block")]


def write_page(run: RunDir, path: Path, force: bool) -> int:
    """Write the page of a run to `path` and return its size in bytes.

    Raises InputError where `run` is no run, `path` is there and `force` is not given, or cannot be written.
    """
    if path.exists() and not force:
        raise InputError(f"{path}: exists; --force writes it anew")
    return _write(path, page(run))


def write_sections(path: Path, name: str, about: str, sections: list[Section]) -> int:
    """Write a page of sections that belong to no run, and return its size in bytes. Raises as write_page does."""
    return _write(path, _rendered(sections, name=name, about=about, path=str(path.absolute().parent)))


def _write(path: Path, text: str) -> int:
    content = text.encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise (WorkError if path.parent.is_dir() else InputError)(
            f"{path}: cannot be written: {error.strerror}"
        ) from None
    return len(content)


def page(run: RunDir) -> str:
    """Return the page of a run."""
    plan, states = run.read_plan(), read_statuses(run)
    return _rendered(
        [*kinds.page(plan.kind)(run, plan), *_common(run, plan)],
        name=plan.name,
        about=f"{len(states)} tasks of kind {plan.kind}: {_counts(states)}",
        path=str(run.path.absolute()),
        states=states,
        failures=[(s, run.task(s.id).log_tail(LOG_LINES)) for s in states if s.ended and s.state != "done"],
    )


def _rendered(sections: list[Section], states: Sequence = (), failures: Sequence = (), **texts: str) -> str:
    """Return the page. What is of this package, and what a kind has made and escaped, goes into it as it is."""
    package = resources.files("hpc_kit")
    folder = package / "report" / "template"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals["drawing"] = lambda figure: Markup(figure.svg)  # made by svg.py, which escapes  # noqa: S704
    environment.globals["markup"] = lambda section: Markup(section.markup)  # noqa: S704
    scripts = dict.fromkeys(name for section in sections for name in section.scripts)
    template = environment.from_string((folder / "page.html").read_text())
    return template.render(
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        style=Markup((folder / "page.css").read_text()),  # noqa: S704 (of this package)
        script=Markup((folder / "page.js").read_text()),  # noqa: S704 (of this package)
        scripts=[Markup((package / name).read_text()) for name in scripts],  # noqa: S704 (of this package)
        states=states,
        failures=failures,
        sections=sections,
        **texts,
    )


def _counts(states: list[TaskStatus]) -> str:
    counts = {name: sum(s.state == name for s in states) for name in sorted({s.state for s in states})}
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _common(run: RunDir, plan: Plan) -> Iterator[Section]:
    """Yield the sections of every kind of run."""
    if (found := _attempts(run, plan)) is not None:
        yield found
    if (found := _conditions(run, plan)) is not None:
        yield found
    files = {
        file.name: content.decode(errors="replace")
        for file in (run.job_file, run.site_file)
        if (content := read_bytes(file)) is not None
    }
    yield Section("Job and site", "As resolved when the run was submitted.", folded=files)


def _attempts(run: RunDir, plan: Plan) -> Section | None:
    """The attempts of all tasks and the blocks they ran in, by the ledger and by what the scheduler said."""
    labels = {task.id: task.label for task in plan.tasks}
    spans: dict[str, list[Span]] = {}
    started: dict[str, float] = {}
    last = 0.0
    for line in read_lines(run.ledger, LedgerLine):
        last, task = max(last, line["time"]), line["task"]
        if line["state"] == "started":
            started[task] = line["time"]
        elif line["state"] in ENDS and task in started:
            text = f"{labels.get(task, task)}, attempt {line['attempt']}: {line['state']}"
            text += f": {line['reason']}" if line.get("reason") else ""
            colour = COLOUR_OF.get(line["state"], OTHER_END)
            spans.setdefault(task, []).append(Span(0, started.pop(task), line["time"], colour, text))
    for task, time_ in started.items():
        text = f"{labels.get(task, task)}: under way"
        spans.setdefault(task, []).append(Span(0, time_, max(last, time_), COLOUR_OF["started"], text))
    if not spans:
        return None
    rows = [(labels.get(task, task), found) for task, found in spans.items()]
    blocks, table = _blocks(run)
    rows, left_out = [*rows[: MOST_ROWS - min(len(blocks), 20)], *blocks[:20]], max(0, len(rows) - MOST_ROWS)
    for place, (_, found) in enumerate(rows):
        for span in found:
            span.row = place
    figure = timeline(
        "attempts and blocks", [name for name, _ in rows], [span for _, found in rows for span in found], LEGEND
    )
    spent = used(run)
    text = f"{spent.run:.3g} {spent.unit} used so far." if spent else ""
    if left_out:
        text += f" {left_out} more tasks are not drawn."
    columns = ("block", "job", "state", "the scheduler's words", "charge") if table else ()
    return Section("Attempts and blocks", text.strip(), [figure], columns, table)


def _blocks(run: RunDir) -> tuple[list[tuple[str, list[Span]]], list[tuple[str, ...]]]:
    times: dict[str, list[float]] = {}
    for line in read_lines(run.blocks, BlockLine):
        times.setdefault(line["block"], []).append(line["time"])
    rows, table = [], []
    for block in BlockLog(run).blocks.values():
        text = f"block {block.name} (job {block.job}): {block.state} {block.evidence}"
        rows.append((f"block {block.job or '-'}", [Span(0, times[block.name][0], times[block.name][-1], 0, text)]))
        charge = "-" if block.charge is None else f"{block.charge:.3g}"
        table.append((block.name, block.job or "-", block.state, block.evidence or "-", charge))
    return rows, table


def _conditions(run: RunDir, plan: Plan) -> Section | None:
    """The fingerprints: what is the same for all tasks folded, what differs in a table."""
    found: dict[str, dict[str, str]] = {}
    for task in plan.tasks:
        file = run.task(task.id).fingerprint
        if file.is_file():
            found[task.label] = dict(_leaves(read_fingerprint(file)["comparable"]))
    if not found:
        return None
    keys = dict.fromkeys(key for fields in found.values() for key in fields)
    values = {key: {label: fields.get(key, "-") for label, fields in found.items()} for key in keys}
    same = {key: next(iter(texts.values())) for key, texts in values.items() if len(set(texts.values())) == 1}
    rows = []
    for key, texts in values.items():
        if key not in same:
            groups: dict[str, list[str]] = {}
            for label, text in texts.items():
                groups.setdefault(text, []).append(label)
            rows += [(key, text, _few(labels)) for text, labels in groups.items()]
    what = "What differs between tasks; the rest is the same." if rows else "Everything is the same for all tasks."
    folded = {"what is the same": "\n".join(f"{key}: {text}" for key, text in same.items())}
    return Section("Hardware and software", what, [], ("field", "value", "tasks") if rows else (), rows, folded)


def _few(labels: list[str]) -> str:
    return ", ".join(labels[:FEW]) + (f" and {len(labels) - FEW} more" if len(labels) > FEW else "")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield key, str(value)
        return
    for name, part in inner:
        yield from _leaves(part, f"{key}.{name}" if key else str(name))
