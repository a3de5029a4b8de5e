"""`trials/` of a search: a run directory like any other, whose tasks are the trials, and whose plan grows as they are
asked for. Its ledger is kept here.

Not for: what the search knows of its trials (records.py), which holds where the two differ.
"""

from hpc_kit.plan import SCHEMA, Plan, Task
from hpc_kit.runs.create import add_task, create_run
from hpc_kit.runs.layout import RunDir, TaskDir
from hpc_kit.runs.ledger import Entry, Ledger
from hpc_kit.search.trials import trial_job
from hpc_kit.spec.errors import InputError

# What the ledger calls the ends of trials. One that was pruned is not all that its task asks for.
_STATES = {"done": "done", "pruned": "cancelled", "failed": "failed", "interrupted": "preempted", "lost": "lost"}


class TrialRun:
    """The run of a search's trials, held by this process until `close`."""

    def __init__(self, directory: TaskDir, search: Task, ended: dict[str, tuple[str, str]]):
        """ended: task id -> state and reason, of those trials that have ended for good."""
        self.run = RunDir(directory.path / "trials")
        self._search, self._site = search, directory.run.read_site()
        self._plan = self.run.read_plan() if self.run.plan_file.exists() else None
        self._ledger: Ledger | None = None
        self._ended = ended
        if self._plan is not None:
            self._open()

    def add(self, task: Task) -> TaskDir:
        """Return the directory of a trial, made where it is new."""
        if self._plan is None:
            self._plan = Plan(schema_version=SCHEMA, name=self._search.label or self._search.id, tasks=[task])
            create_run(self.run.path, self._plan, trial_job(self._search), self._site)
            self._open()
        elif task.id not in (known.id for known in self._plan.tasks):
            self._plan = add_task(self.run, self._plan, task)
            self._ledger.tasks[task.id] = Entry()
        return self.run.task(task.id)

    def start(self, task_id: str, host: str) -> int:
        """Write down that a trial is begun or goes on, and return which attempt it is."""
        self._ledger.submit([task_id])
        self._ledger.start(task_id, {"host": host})
        return self._ledger.tasks[task_id].attempt

    def end(self, task_id: str, state: str, reason: str) -> None:
        """Write down how an attempt at a trial ended; `state` as in records.py."""
        name = "out_of_memory" if reason.startswith("out of memory:") else _STATES[state]
        self._ledger.end(task_id, name, f"pruned: {reason}" if state == "pruned" else reason, again=state == "lost")

    def beat(self) -> None:
        """Show that the search is at work."""
        if self._ledger is not None:
            self._lock.beat()

    def close(self) -> None:
        """Let go of the run."""
        if self._ledger is not None:
            self._lock.release()

    def _open(self) -> None:
        self._lock = self.run.lock
        if not self._lock.acquire():
            who = self._lock.holder()
            raise InputError(
                f"{self.run.path}: process {who.get('pid')} on {who.get('host')} works on these trials; end it"
            )
        Ledger.repair(self.run.ledger)
        self._ledger = Ledger(self.run.ledger, [task.id for task in self._plan.tasks])
        for task_id, entry in self._ledger.tasks.items():
            if entry.state in ("submitted", "started"):
                self.end(task_id, *self._ended.get(task_id, ("lost", "its search ended before it did")))
