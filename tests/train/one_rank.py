"""One rank of a training, for test_distributed.py: python one_rank.py TASK_DIR RANKS WHAT [WHO].

Built on Group alone, as the training loop is; the last line of a rank that comes to its end is "rank R: well".
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hpc_kit import cli
from hpc_kit.data.loader import Dataset
from hpc_kit.data.sampling import share
from hpc_kit.models import build_model
from hpc_kit.ranks import expect_ranks
from hpc_kit.runs.layout import task_directory
from hpc_kit.spec.errors import Preempted, WorkError
from hpc_kit.train.distributed import Group


def work() -> None:
    out, what = task_directory(Path(sys.argv[1])), sys.argv[3]
    who = int(sys.argv[4]) if len(sys.argv) > 4 else None
    task = out.read_task()
    resources = task.resources.model_copy(update={"ranks_per_node": int(sys.argv[2])})
    ranks = expect_ranks(resources.ranks_per_node)
    with Group.open(task.model_copy(update={"resources": resources}), out, ranks) as group:
        if what == "gradients":
            compare_gradients(group, task)
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
