"""Makes a shard set and writes down what came of it. The node side of kind "prepare"."""

from pathlib import Path

from hpc_kit.data.command import prepare_from, summary
from hpc_kit.files import write_json
from hpc_kit.plan import Task
from hpc_kit.ranks import Ranks
from hpc_kit.runs.layout import TaskDir


def run(task: Task, directory: TaskDir, ranks: Ranks) -> None:
    """Make the shard set. Raises InputError, WorkError."""
    spec = task.work.prepare
    total, unit = task.work.amount()

    def tell(done: int) -> None:
        directory.write_progress(done, max(done, total), unit)

    manifest = prepare_from(spec, ranks, task.resources.cpus_per_rank, tell)
    print(summary(Path(spec.out), manifest), flush=True)
    tell(manifest.graphs)
    write_json(
        directory.metrics,
        {
            "out": spec.out,
            "graphs": manifest.graphs,
            "rejected": manifest.rejected,
            "shards": len(manifest.shards),
            "bytes": sum(shard.bytes for shard in manifest.shards),
            "sha256": manifest.sha256,
        },
    )
