"""What `hpc_kit data prepare` and a task of kind "prepare" share: open the source, prepare, say what came of it."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpc_kit import machine
from hpc_kit.data.manifest import Manifest
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.rejects import REJECTS, commonest, read_reasons
from hpc_kit.data.sources import open_source
from hpc_kit.ranks import Ranks
from hpc_kit.spec.data import Prepare

LINE_EVERY_S = 5.0
_MOST_NAMES = 20  # of columns that were left out, in the summary
Tell = Callable[[int], None]


def prepare_from(spec: Prepare, ranks: Ranks, workers: int | None = None, tell: Tell = lambda done: None) -> Manifest:
    """Make the shard set that `spec` describes; workers None: one a usable core, shared by the ranks.

    `tell` learns now and then how many structures have been read.
    """
    source = open_source(spec.source, Path(spec.path) if spec.path else None, spec.options)
    if workers is None:
        workers = max(1, machine.usable_cores() // ranks.size)
    settings = Settings(spec.graph, spec.shard_size, spec.limit)
    return prepare(source, Path(spec.out), settings, workers, ranks.rank, ranks.size, _Lines(ranks.head, tell))


def summary(folder: Path, manifest: Manifest) -> str:
    """Return what was made, a line for each thing to know: what is rejected and why, which targets are not there."""
    size = sum(shard.bytes for shard in manifest.shards)
    lines = [f"{folder}: {manifest.graphs} graphs in {len(manifest.shards)} shards, {size / 1e6:.1f} MB"]
    if manifest.rejected:
        reasons = commonest(read_reasons(folder))
        lines.append(f"{manifest.rejected} rejected: {reasons}. {folder / REJECTS} says why, by identifier")
    if not manifest.targets:
        lines.append("no targets: this set can be predicted on; to train, prepare it with a table of targets")
    if nowhere := [name for name, count in (manifest.known or {}).items() if not count]:
        lines.append(f"no structure has a value of {', '.join(nowhere)}: these cannot be learned")
    if manifest.with_forces and not manifest.forces:
        lines.append(f"to train on forces: it {manifest.without_forces()}")
    if manifest.left_out:
        more = len(manifest.left_out) - _MOST_NAMES
        names = ", ".join(manifest.left_out[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"left out: {names}; options of the source name what to take (docs/sources.md)")
    return "\n".join(lines)


class _Lines:
    """A line on standard error, and a word to `tell`, every LINE_EVERY_S seconds."""

    def __init__(self, head: str, tell: Tell):
        self._head, self._tell = head, tell
        self._next = time.monotonic() + LINE_EVERY_S

    def __call__(self, done: int, rejected: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            print(f"{self._head}{done} structures, {rejected} rejected", file=sys.stderr, flush=True)
            self._tell(done)
