"""One rank of a training, for test_distributed.py: python one_rank.py TASK_DIR RANKS WHAT [WHO].

Built on Group alone, as the training loop is; the last line of a rank that comes to its end is "rank R: well".
"""

import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from hpc_kit import cli
from hpc_kit.data.loader import Dataset
from hpc_kit.data.sampling import Limits, share
from hpc_kit.models import build_model
from hpc_kit.ranks import Ranks, expect_ranks
from hpc_kit.runs.layout import TaskDir, task_directory
from hpc_kit.runs.preempt import Watch
from hpc_kit.spec.errors import Preempted, WorkError
from hpc_kit.train import agree
from hpc_kit.train.agree import read_together, stop_together
from hpc_kit.train.checkpoint import save_checkpoint
from hpc_kit.train.distributed import Group
from hpc_kit.train.evaluate import predict
from hpc_kit.train.faults import not_finite
from hpc_kit.train.objective import Objective
from hpc_kit.train.scale import Scale


def work() -> None:
    out, what = task_directory(Path(sys.argv[1])), sys.argv[3]
    who = int(sys.argv[4]) if len(sys.argv) > 4 else None
    task = out.read_task()
    with Group.open(task, out, expect_ranks(int(sys.argv[2]))) as group:
        if what == "gradients":
            compare_gradients(group, task)
        elif what == "agree":
            data, objective = untrained(task)
            agree_on_predictions(group, data, objective)
            agree_on_a_fault(group, data, objective)
            agree_on_a_file(group, out)
        else:
            train(group, what, who)
    sys.stdout.write(f"rank {group.rank}: well\n")


def compare_gradients(group: Group, task) -> None:
    """Gradients of 3 shared batches, of 32, 21 and 1 graphs, against those of this process alone."""
    torch.set_num_threads(1)
    torch.manual_seed(group.rank)
    model = build_model(task.work.model, task.work.data.graph)
    wrapped = group.wrap(model)  # takes rank 0's weights
    data = Dataset(Path(task.work.dataset), task.work.data.target, task.work.data.graph)
    batches = np.split(np.arange(54), [32, 53])

    for members in batches:
        batch = data._store.batch(share(members, group.rank, group.size))
        with group.no_sync(wrapped) if members is not batches[-1] else torch.enable_grad():
            ((wrapped(batch) - batch.targets).square().sum() / 54).backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])

    model.zero_grad()
    whole = data._store.batch(np.arange(54))
    ((model(whole) - whole.targets).square().sum() / 54).backward()
    alone = torch.cat([p.grad.flatten() for p in model.parameters()])
    error = float((ours - alone).abs().max() / alone.abs().max())
    assert error < 1e-5, error
    for theirs in group.gather(ours.numpy()):
        assert np.array_equal(theirs, ours.numpy())

    assert group.sum(torch.tensor([1.0, group.rank])).tolist() == [group.size, sum(range(group.size))]
    assert [group.any(group.rank == r) for r in range(group.size)] == [True] * group.size
    assert not group.any(False)
    names = group.gather(np.array([b"x" * (group.rank + 1)] * group.rank))
    assert [x.tolist() for x in names] == [[b"x" * (r + 1)] * r for r in range(group.size)]
    group.barrier()


def untrained(task) -> tuple[Dataset, Objective]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(task.work.model, task.work.data.graph)
    data = Dataset(Path(task.work.dataset), task.work.data.target, task.work.data.graph)
    return data, Objective(model, Scale(np.zeros(1), np.ones(1), per_atom=False), task.work.train)


def agree_on_predictions(group: Group, data: Dataset, objective: Objective) -> None:
    """Five batches among all ranks are predicted as by one process; a stop asked of one comes to all at once."""
    index, limits = np.arange(5), Limits(1)
    alone = predict(objective, data, index, limits, Group(Ranks(), group.device))
    together = predict(objective, data, index, limits, group)
    assert np.allclose(together.values, alone.values, rtol=1e-5)

    rounds = []
    with Watch({}) as watch:

        def meet(more: bool) -> bool:
            if group.rank == group.size - 1 and len(rounds) == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            rounds.append(more)
            reason, cause, more = stop_together(watch, group, more)
            if reason:
                raise Preempted(reason, cause)
            return more

        try:
            predict(objective, data, index, limits, group, meet)
        except Preempted as stop:
            assert stop.cause == "preempted" and len(rounds) == 2
            who = "SIGUSR1 was sent" if group.rank == group.size - 1 else "a signal was sent to another rank"
            assert str(stop) == who
        else:
            raise AssertionError("nobody stopped")


def agree_on_a_fault(group: Group, data: Dataset, objective: Objective) -> None:
    """Each rank tries its share of a bad batch; all name the one graph that the fault is due to."""
    data._store._targets[3] = float("nan")
    error = not_finite("the loss is nan", "batch 0", np.arange(5), objective, objective.model, data, group)
    assert f"of its 5 graphs it is due to {data.ids[3].decode()}." in str(error), error


def agree_on_a_file(group: Group, out: TaskDir) -> None:
    """The last rank sees what was there before: for a while, and then for good."""
    agree.WAIT_S, agree.POLL_S = 1.5, 0.1
    is_stale = group.rank == group.size - 1
    new, old = out.path / "last.pt", out.path / f"seen-by-{group.rank}.pt"
    assert read_together(new, group) is None
    group.barrier()
    if group.is_main:
        save_checkpoint(new, {"progress": {"epoch": 4, "batch": 7}})
    if is_stale:
        save_checkpoint(old, {"progress": {"epoch": 3, "batch": 0}})
        threading.Timer(0.5, lambda: os.replace(shutil.copy(new, out.path / "copy"), old)).start()
    group.barrier()
    assert read_together(old if is_stale else new, group) == new.read_bytes()
    group.barrier()
    if is_stale:
        save_checkpoint(old, {"progress": {"epoch": 3, "batch": 0}})
    try:
        read_together(old if is_stale else new, group)
    except WorkError as error:
        sha256 = "sha256 [0-9a-f]{12}"
        last = group.size - 1
        found = f"finds epoch 4, batch 7, {sha256}, and after 2 s rank {last} finds epoch 3, batch 0, {sha256}:"
        assert re.search(f"rank 0 of {group.size} {found}", str(error)), error
    else:
        raise AssertionError("a rank goes on from another checkpoint")


def train(group: Group, what: str, who: int | None) -> None:
    """Many short steps; in the fifth something happens to rank `who`."""
    for step in range(400):
        if step == 5 and group.rank == who:
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif what == "late":
                time.sleep(60)
            elif what == "failed":
                raise WorkError("the disk is full")
        if group.any(what == "preempted" and step == 5 and group.rank == who):
            raise Preempted("SIGTERM was sent", "preempted")
        time.sleep(0.01)


if __name__ == "__main__":
    cli.app = work
    cli.main()
