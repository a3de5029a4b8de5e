"""Which room does which kind of task: the one line that a new kind adds.

A room is a package with two files. `job.py`, for the login side, has `Job` (what a user writes, a spec.job.Job),
`Work` (what one task of it does, a plan.Work), `works` (from jobs to pieces of work), `summarize` and `print_summary`
(what came of a run); `page.py` beside it may have `sections` for the run's page. `run.py`, for the node, has
`run(task, directory, ranks)`, and is imported there only.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from types import ModuleType

ROOMS = {
    "train": "hpc_kit.train",
    "prepare": "hpc_kit.prepare",
    "predict": "hpc_kit.predict",
    "explain": "hpc_kit.explain",
    "probe": "hpc_kit.probe",
    "benchmark": "hpc_kit.bench",
}


def login_side(kind: str) -> ModuleType:
    """Return job.py of the room for `kind`."""
    return importlib.import_module(f"{ROOMS[kind]}.job")


def page(kind: str) -> Callable[..., Iterable]:
    """Return what gives the kind's own sections of a run's page, `sections(run, plan)` of page.py; some have none."""
    name = f"{ROOMS[kind]}.page"
    if importlib.util.find_spec(name) is None:
        return lambda run, plan: ()
    return importlib.import_module(name).sections


def node_side(kind: str) -> ModuleType:
    """Return run.py of the room for `kind`."""
    return importlib.import_module(f"{ROOMS[kind]}.run")
