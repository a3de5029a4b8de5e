"""Lines of a run under way: what a resumed task did before is not shown as new."""

import io
from dataclasses import replace

from rich.console import Console

from hpc_kit.report import progress
from hpc_kit.report.progress import Bars, Lines
from hpc_kit.runs.status import TaskStatus


def _status(done: int, attempt: int = 2, state: str = "started") -> TaskStatus:
    score = {"name": "val MAE", "value": 0.012, "unit": "eV"}
    return TaskStatus(
        id="a", label="seed=0", state=state, ended=False, attempt=attempt, done=done, total=100, unit="epochs",
        score=score, reason="", hint="", before="preempted",
    )  # fmt: skip


def test_resumed_task_shows_its_progress_once_it_has_made_some(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    out = Console(file=io.StringIO(), width=100)
    lines = Lines(out)
    shown = []
    for status in (_status(40, 1, "preempted"), _status(40), _status(40), _status(41)):
        lines([status])
        shown.append(out.file.getvalue().count("val MAE"))
    assert shown == [0, 0, 0, 1]
    assert "seed=0: 41/100 epochs, val MAE 12 meV" in out.file.getvalue()


def test_first_attempt_shows_its_progress_at_once(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    out = Console(file=io.StringIO(), width=100)
    Lines(out)([_status(3, attempt=1)])
    assert "seed=0: 3/100 epochs" in out.file.getvalue()


def test_bar_of_a_resumed_task_shows_no_old_error():
    out = Console(file=io.StringIO(), width=120, force_terminal=True)
    bars = Bars(out)
    bars([_status(40)])
    bars._progress.refresh()
    before = out.file.getvalue()
    bars([_status(41)])
    bars.close()
    assert "val MAE" not in before and "val MAE 12 meV" in out.file.getvalue()


def test_brackets_in_a_label_are_no_markup():
    out = Console(file=io.StringIO(), width=120, force_terminal=True)
    bars = Bars(out)
    bars([replace(_status(40), label="data.target=[zpve, homo] [/x]")])
    bars.close()
    assert "data.target=[zpve, homo] [/x]" in out.file.getvalue()
