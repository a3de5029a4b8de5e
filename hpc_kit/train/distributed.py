"""Training on several ranks: data-parallel, each rank with its share of every batch.

Not for: how the ranks find each other (rendezvous.py), or what becomes of them when one dies (peers.py).
"""

import contextlib
import io
import os
import socket
import traceback
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks, timeout_s
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import InputError, Preempted, RankLost
from hpc_kit.train.peers import Peers
from hpc_kit.train.phases import Phases
from hpc_kit.train.rendezvous import join, meet


class Group:
    """The ranks of one task. Alone it does nothing, at no cost.

    rank, size: this rank's place; device: what it computes on; is_main: whether it writes the task's files; phases:
    the clock of steps and of sums of gradients.
    """

    def __init__(self, ranks: Ranks, device: torch.device, peers: Peers | None = None):
        self.rank, self.size, self.device = ranks.rank, ranks.size, device
        self.is_main = ranks.rank == 0
        self.phases = Phases()
        self._peers = peers

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, task: Task, out: TaskDir, ranks: Ranks, environment: Mapping[str, str] = os.environ
    ) -> Iterator["Group"]:
        """Bring the task's ranks together for the time of the block; an error in one ends it in all.

        Raises WorkError naming the rank where one does not come, fails or dies.
        """
        if ranks.size == 1:
            yield cls(ranks, _open_device(task, ranks))
            return
        timeout = timeout_s(environment)
        try:
            store = meet(ranks, out.rendezvous, timeout, environment)
            me = {"host": socket.gethostname(), "pid": os.getpid(), "born": psutil.Process().create_time()}
            who = join(store, ranks, me, timeout)
            if ranks.rank == 0:  # what a launcher says of a process is told of its pid
                places = ", ".join(f"{rank} {peer['host']}:{peer['pid']}" for rank, peer in enumerate(who))
                print(f"{ranks.size} ranks ({ranks.launcher}) at host:pid {places}", flush=True)
            peers = Peers(store, ranks, who)
            with _ending_together(peers):
                device = _open_device(task, ranks)
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                    store=dist.PrefixStore("group", store),
                    rank=ranks.rank,
                    world_size=ranks.size,
                    timeout=timedelta(seconds=timeout),
                )
                group = cls(ranks, device, peers)
                group._check_gpus()
                yield group
        finally:
            if ranks.rank == 0:
                out.rendezvous.unlink(missing_ok=True)

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return `module` such that a backward pass through it leaves the SUM of all ranks' gradients in each.

        A rank's loss is its part of the sum over the whole batch, divided by what the whole batch is divided by. Use
        `module` itself to evaluate and to store. Its parameters are rank 0's, its buffers each rank's own.
        """
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        options = {"device_ids": devices, "broadcast_buffers": False, "gradient_as_bucket_view": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames broadcast_buffers
            wrapped = DistributedDataParallel(module, **options)
        wrapped.register_comm_hook(self, _sum_bucket)  # DDP's own would divide by the number of ranks
        return wrapped

    def no_sync(self, wrapped: torch.nn.Module) -> contextlib.AbstractContextManager:
        """Return a block whose forward and backward passes keep their gradients to themselves: all but the last
        batch of an optimiser step."""
        return contextlib.nullcontext() if self.size == 1 else wrapped.no_sync()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all ranks, in each; `values` stays as it is."""
        if self.size == 1:
            return values
        self._peers.collectives += 1
        total = values.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Tell every rank whether `flag` is true in one. No GPU is waited for."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag))))

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """Return every rank's array, in each, by rank; they may differ in shape and type."""
        if self.size == 1:
            return [values]
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        mine = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(mine)
        sizes = self.sum(sizes).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        pairs = zip(parts, sizes, strict=True)
        return [np.load(io.BytesIO(part[:size].numpy().tobytes()), allow_pickle=False) for part, size in pairs]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.any(False)

    def _check_gpus(self) -> None:
        """Raise InputError where two ranks compute on one GPU; NCCL would only say "invalid usage"."""
        if self.device.type == "cuda":
            uuid = str(torch.cuda.get_device_properties(self.device).uuid)
            uuids = [bytes(x).decode() for x in self.gather(np.frombuffer(uuid.encode(), np.uint8))]
            if twice := [rank for rank, uuid in enumerate(uuids) if uuids.index(uuid) != rank]:
                first = uuids.index(uuids[twice[0]])
                raise InputError(
                    f"ranks {first} and {twice[0]} see the same GPU and no other: start as many ranks a node as it"
                    " has GPUs, and let the launcher show each rank its own or all of them"
                )


def _sum_bucket(group: Group, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    group._peers.collectives += 1
    ended = group.phases.summing()

    def whole(done: torch.futures.Future) -> torch.Tensor:
        if ended:
            ended()
        return done.value()[0]

    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(whole)


@contextlib.contextmanager
def _ending_together(peers: Peers) -> Iterator[None]:
    """Leave the block with the others, or tell them why not; where another rank is the cause, raise WorkError."""
    try:
        yield
    except Preempted:
        peers.leave(well=True)
        dist.destroy_process_group()
        raise
    except BaseException as error:
        reason = None
        with contextlib.suppress(dist.DistError):
            # InputError and WorkError are a rank's own; what torch raises may be the end of another.
            reason = peers.reason(error) if isinstance(error, RuntimeError) else None
            if reason is None:
                peers.failed(error)
        if dist.is_initialized():
            _hang_up(error)
        peers.leave(well=False)
        if reason is not None:
            raise RankLost(reason) from error
        raise
    peers.leave(well=True)
    dist.destroy_process_group()


def _hang_up(error: BaseException) -> None:
    """Close this rank's connections, so that those who wait for it are let go."""
    if dist.get_backend(dist.group.WORLD) != "gloo":
        dist.group.WORLD.abort()  # kernels that wait for a dead rank would keep the process from ending
    traceback.clear_frames(error.__traceback__)  # they hold the connections that failed
    dist.destroy_process_group()


def _open_device(task: Task, ranks: Ranks) -> torch.device:
    """Return what a rank computes on: of the GPUs it sees its own, or the one that its launcher shows it.

    Raises InputError where there are too few.
    """
    if not task.resources.gpus_per_rank:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("resources.gpus_per_rank is 1 but torch sees no GPU; with 0 the task trains on the CPU")
    visible = torch.cuda.device_count()
    if 1 < visible < ranks.local_size:
        raise InputError(
            f"{ranks.local_size} ranks work on this node and see {visible} GPUs; each takes one of its own"
        )
    return torch.device("cuda", ranks.local_rank if visible > 1 else 0)
