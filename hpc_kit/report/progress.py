"""Progress of a run while it is driven: bars on a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hpc_kit.runs.status import TaskStatus

LINE_EVERY_S = 10.0


class News:
    """Tells what a task has done in its present attempt from what it did in those before, which its records show too
    until there is more."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[int, int]] = {}  # task -> attempt, and what was done when it began

    def of(self, s: TaskStatus) -> bool:
        """Return whether `s` shows work of the attempt that is under way."""
        if self._begun.get(s.id, (None,))[0] != s.attempt:
            self._begun[s.id] = (s.attempt, s.done if s.attempt > 1 else 0)
        return s.state == "started" and s.done > self._begun[s.id][1]


class Bars:
    """A bar for all that the run has to do and one for each task under way."""

    def __init__(self, console: Console):
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._bars: dict[str, int] = {}
        self._news = News()
        self._progress.start()

    def __call__(self, states: list[TaskStatus]) -> None:
        done = sum(s.ended for s in states)
        text = f"{done} of {len(states)} tasks ended"
        unit = states[0].unit if states else ""
        self._set("", text, sum(s.done for s in states), sum(s.total for s in states), unit, "")
        for s in states:
            if s.state == "started" or s.id in self._bars:
                note = s.state if s.state != "started" else s.said if self._news.of(s) else ""
                self._set(s.id, s.label, s.done, s.total, s.unit, note)

    def _set(self, key: str, text: str, done: int, total: int, unit: str, note: str) -> None:
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(text, total=total, completed=done, unit=unit, note=note)
        self._progress.update(self._bars[key], description=text, total=total, completed=done, note=note)

    def say(self, text: str) -> None:
        """Print a line of its own above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """A line when a task starts or ends, and every LINE_EVERY_S seconds one for all that are under way."""

    def __init__(self, console: Console):
        self._console = console
        self._states: dict[str, str] = {}
        self._news = News()
        self._next = time.monotonic() + LINE_EVERY_S

    def __call__(self, states: list[TaskStatus]) -> None:
        for s in states:
            if self._states.get(s.id, "planned") != s.state and s.state != "submitted":
                before = f"attempt {s.attempt}, after {s.before}" if s.before and s.state == "started" else ""
                self.say(": ".join(filter(None, (s.label, s.state, s.reason or before))))
            self._states[s.id] = s.state
        new = {s.id: self._news.of(s) for s in states}
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            for s in states:
                if new[s.id]:
                    self.say(", ".join(filter(None, (f"{s.label}: {s.done}/{s.total} {s.unit}", s.said))))

    def say(self, text: str) -> None:
        """Print a line with the time."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


def progress(console: Console) -> Bars | Lines:
    """Return what fits where `console` writes to."""
    return Bars(console) if console.is_terminal else Lines(console)
