"""Which room does which kind of task: the one line that a new kind adds.

A room is a package with two files. `job.py`, for the login side, has `Job` (what a user writes, a spec.job.Job),
`Work` (what one task of it does, a plan.Work), `works` (from jobs to pieces of work), `summarize` and `print_summary`
(what came of a run); `page.py` beside it may have `sections` for the run's page, and `sections_of_any` for that of a
run of any kind. `run.py`, for the node, has `run(task, directory, ranks)`, and is imported there only.
"""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable
from types import ModuleType

ROOMS = {
    "train": "hpc_kit.train",
    "prepare": "hpc_kit.prepare",
    "predict": "hpc_kit.predict",
    "explain": "hpc_kit.explain",
    "embed": "hpc_kit.embed",
    "probe": "hpc_kit.probe",
    "search": "hpc_kit.search",
    "benchmark": "hpc_kit.bench",
    "dynamics": "hpc_kit.md",
}


def login_side(kind: str) -> ModuleType:
    """Return job.py of the room for `kind`."""
    return importlib.import_module(f"{ROOMS[kind]}.job")


def page(kind: str) -> Callable[..., Iterable]:
    """Return what gives the rooms' sections of a run's page, called with the run and its plan: those of its kind
    (`sections` of page.py), and behind them what rooms have for runs of any kind (`sections_of_any`)."""
    found = [_of_page(ROOMS[kind], "sections"), *(_of_page(room, "sections_of_any") for room in ROOMS.values())]
    return lambda run, plan: itertools.chain.from_iterable(give(run, plan) for give in found)


def _of_page(room: str, function: str) -> Callable[..., Iterable]:
    name = f"{room}.page"
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    return getattr(module, function, lambda run, plan: ())


def node_side(kind: str) -> ModuleType:
    """Return run.py of the room for `kind`."""
    return importlib.import_module(f"{ROOMS[kind]}.run")
