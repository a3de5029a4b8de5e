"""What a run has used of an allocation, by what its scheduler accounts for its blocks."""

from dataclasses import dataclass

from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import LedgerLine, read_lines


@dataclass(frozen=True)
class Used:
    """In `unit`: `run` is the charge of all blocks that have ended, `tasks` (by id) each task's share of the blocks
    its attempts ran in, by time and slots. What no task used, starting and idling, is in `run` alone. `open_blocks`
    are not
    counted yet."""

    unit: str
    run: float
    tasks: dict[str, float]
    open_blocks: int


def used(run: RunDir) -> Used | None:
    """Return what the run has used; None where the site charges nothing."""
    charge = run.read_site().charge
    if charge is None or not run.blocks.exists():
        return None
    log = BlockLog(run)
    tasks: dict[str, float] = {}
    started: dict[str, dict] = {}
    for line in read_lines(run.ledger, LedgerLine):
        task = line["task"]
        if line["state"] == "started":
            started[task] = line
        elif task in started:
            start = started.pop(task)
            block = log.by_job(start.get("job"))
            if block is not None and block.hourly is not None:
                time = line["time"] - start["time"]  # until the driver knew: after a resume far too long
                share = block.hourly / block.slots * min(time, block.elapsed_s or time) / 3600
                tasks[task] = tasks.get(task, 0.0) + share
    blocks = log.blocks.values()
    return Used(charge.unit, sum(block.charge or 0.0 for block in blocks), tasks, sum(block.open for block in blocks))
