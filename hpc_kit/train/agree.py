"""What all ranks have to agree on: what is in a file that each of them reads, and that they stop now, and why."""

import hashlib
import time
from pathlib import Path

import numpy as np
import torch

from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import WorkError
from hpc_kit.train.checkpoint import parse_checkpoint
from hpc_kit.train.distributed import Group

WAIT_S = 90.0  # NFS may keep what it knows of a file for a minute
POLL_S = 1.0


def read_together(path: Path, group: Group) -> bytes | None:
    """Return the content of the checkpoint `path`, the same for every rank; None where no rank finds it.

    A shared file system may show one node what was there a minute ago, and ranks that go on from different
    checkpoints would train a mixture of both without an error. Ranks that see something else than rank 0 get WAIT_S
    seconds to see the same; then all raise WorkError.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        content = _read(path)
        mine = "nothing" if content is None else hashlib.sha256(content).hexdigest()
        seen = _tell(mine, group)
        if len(set(seen)) == 1:
            return content
        if group.any(time.monotonic() > deadline):
            found = _tell(_describe(path, content), group)
            others = [f"rank {rank} finds {found[rank]}" for rank in range(group.size) if seen[rank] != seen[0]]
            raise WorkError(
                f"{path}: rank 0 of {group.size} finds {found[0]}, and after {WAIT_S:.0f} s {', '.join(others)}: the"
                " file system does not show all nodes the same. Start again, or look at how it is mounted"
            )
        time.sleep(POLL_S)


def stop_together(watch: Watch, group: Group, flag: bool = False) -> tuple[str | None, str, bool]:
    """Return why all ranks are to stop now (None: none was asked to), the cause, and whether one has raised `flag`.

    All ranks come here together and are told the same cause: the end of the time before a signal.
    """
    text = watch.asked()
    cause = watch.cause if text else ""
    if group.size == 1:
        return text, cause, flag
    told = torch.tensor([flag, cause == "time_limit", cause == "preempted"], dtype=torch.int64)
    flag, late, asked = group.sum(told).tolist()
    if not late and not asked:
        return None, "", bool(flag)
    agreed = "time_limit" if late else "preempted"
    return text if cause == agreed else _OTHERS[agreed], agreed, bool(flag)


_OTHERS = {
    "time_limit": "little is left of the time given to another rank",
    "preempted": "a signal was sent to another rank",
}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkError(f"{path}: cannot be read: {error.strerror}") from None


def _tell(text: str, group: Group) -> list[str]:
    """Return what each rank tells, by rank."""
    return [bytes(told).decode() for told in group.gather(np.frombuffer(text.encode(), np.uint8))]


def _describe(path: Path, content: bytes | None) -> str:
    if content is None:
        return "no such file"
    name = f"sha256 {hashlib.sha256(content).hexdigest()[:12]}"
    try:
        state = parse_checkpoint(path, content)
    except WorkError:
        return f"a damaged file, {name}"
    progress = state.get("progress", state)
    batch = f", batch {progress['batch']}" if "batch" in progress else ""
    return f"epoch {progress['epoch']}{batch}, {name}"
