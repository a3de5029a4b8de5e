"""Searches on this rank. The node side of kind "search"."""

from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import WorkError


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Search until as many trials have ended as the job asks for."""
    raise WorkError("a search is not ready")
