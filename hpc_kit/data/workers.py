"""Processes that share the work of a preparation, and what became of one that died.

Not for: what they do (prepare.py).
"""

import signal
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType

from hpc_kit import machine
from hpc_kit.spec.errors import WorkError


class Workers:
    """A pool of `count` processes (0: a thread of this one), spawned so that no library's threads or handles are
    inherited half-way. As a context it turns a process's death into a WorkError that says how it died."""

    def __init__(self, count: int):
        self._context = _Recording()
        self._kills = machine.out_of_memory_kills()
        self._pool: Executor = ProcessPoolExecutor(count, self._context) if count else ThreadPoolExecutor(1)
        self.submit = self._pool.submit

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is KeyboardInterrupt:
            for process in self._context.started:
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)  # all have ended then
        if isinstance(error, BrokenProcessPool):
            killed = machine.out_of_memory_kills() > self._kills
            raise WorkError(_death([p.exitcode for p in self._context.started], killed)) from None


class _Recording(SpawnContext):
    """The way of starting processes that keeps those it has started: a pool forgets them. Ctrl-C, which a terminal
    sends to all of them, is left to the process that started them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list = []

    def Process(self, *args, **kwargs):
        process = _Deaf(*args, **kwargs)
        self.started.append(process)
        return process


class _Deaf(SpawnProcess):
    """A process that no SIGINT reaches, from its first moment on: it inherits that the signal is held back."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _death(codes: list[int | None], out_of_memory: bool) -> str:
    """Say how the first of some processes died; the pool then ends the others by SIGTERM."""
    less = "run the same command again with fewer --workers or a smaller --shard-size"
    ended = -signal.SIGTERM
    code = next((code for code in codes if code not in (None, 0, ended)), ended)
    if out_of_memory:
        return f"a worker process was killed for lack of memory; finished shards are kept: {less}"
    if code == -signal.SIGKILL:
        return (
            "a worker process was killed by SIGKILL, by the scheduler, for lack of memory, or by somebody; finished"
            f" shards are kept: {less}"
        )
    if code < 0:
        how = f"died of {signal.Signals(-code).name}"
    else:
        how = f"ended by itself with exit code {code}: what it wrote above says why"
    return f"a worker process {how}; finished shards are kept"
