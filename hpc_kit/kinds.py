"""Which room does which kind of task: the one line that a new kind adds.

A room is a package with two files. `job.py`, for the login side, has `Job` (what a user writes, a spec.job.Job),
`Work` (what one task of it does, a plan.Work), `works` (from jobs to pieces of work), `summarize` and `print_summary`
(what came of a run). `run.py`, for the node, has `run(task, directory, ranks)`, and is imported there only.
"""

import importlib
from types import ModuleType

ROOMS = {
    "train": "hpc_kit.train",
    "prepare": "hpc_kit.prepare",
    "probe": "hpc_kit.probe",
}


def login_side(kind: str) -> ModuleType:
    """Return job.py of the room for `kind`."""
    return importlib.import_module(f"{ROOMS[kind]}.job")


def node_side(kind: str) -> ModuleType:
    """Return run.py of the room for `kind`."""
    return importlib.import_module(f"{ROOMS[kind]}.run")
