"""The table of what differs between two records of a timing: which fields of a fingerprint change a time, how, and
under which conditions. docs/comparing.md shows the same table.
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# What a field does to a time.
SPEED = "speed"  # all epochs of a machine become slower or faster: ratios within each run may still be compared
MEASURE = "measure"  # something else is measured, or with something in it: no ratio mends that
NONE = "none"
UNKNOWN = "unknown"

MACHINE, SOFTWARE, MEASURED = "machine", "software", "measured"
ALWAYS, ON_GPU, ON_CPU, RANKS, STREAMED = "", "on a GPU", "on the CPU", "with several ranks", "with data.window"
NOT_SET = "not set"


@dataclass(frozen=True)
class Field:
    """What a field of a record does: `kind` is one of SPEED, MEASURE, NONE and UNKNOWN, `where` when it does
    so, `part` what it is of. In `name` a * stands for anything."""

    name: str
    part: str
    kind: str
    where: str
    effect: str


def _rows(part: str, *rows: tuple[str, str, str, str]) -> list[Field]:
    return [Field(name, part, kind, where, effect) for name, kind, where, effect in rows]


FIELDS = [
    *_rows(
        MACHINE,
        ("cpu.model", SPEED, ALWAYS, "arithmetic, caches and memory bandwidth; on a GPU, loading and launching"),
        ("cpu.architecture", SPEED, ALWAYS, "another instruction set"),
        ("cpu.vector_extensions", SPEED, ON_CPU, "width of the products' arithmetic"),
        ("cpu.sockets", SPEED, ON_CPU, "memory channels, and threads far from their memory"),
        ("cpu.numa_nodes", SPEED, ON_CPU, "memory channels, and threads far from their memory"),
        ("cpu.cores_per_socket", NONE, ALWAYS, "the cores that the task may use count: usable_cores"),
        ("cpu.threads_per_core", SPEED, ON_CPU, "two threads share a core's units"),
        ("cpu.smt", SPEED, ON_CPU, "two threads share a core's units"),
        ("cpu.max_mhz", SPEED, ALWAYS, "clock"),
        ("cpu.governor", SPEED, ALWAYS, "clock under load, and how fast it rises"),
        ("cpu.boost", SPEED, ALWAYS, "clock of single threads, up to a third"),
        ("cpu.l2", SPEED, ON_CPU, "how much of a batch stays near the cores"),
        ("cpu.l3", SPEED, ON_CPU, "how much of a batch stays near the cores"),
        ("cpu.hypervisor", SPEED, ALWAYS, "virtual cores may be taken away, and memory is translated twice"),
        ("usable_cores", SPEED, ALWAYS, "threads of the arithmetic and of the loader"),
        ("memory.total_gb", NONE, ALWAYS, "none while the job fits"),
        ("memory.cgroup_limit_mb", UNKNOWN, ALWAYS, "a tight limit empties the page cache"),
        ("memory.transparent_hugepage", SPEED, ON_CPU, "cost of fresh memory: several times for large tensors"),
        ("gpus.count", NONE, ALWAYS, "a rank uses one"),
        ("gpus.persistence", NONE, ALWAYS, "start of the first process only"),
        ("gpus.cuda_driver", NONE, ALWAYS, "goes with the driver"),
        ("gpus.memory_mb", NONE, ALWAYS, "none while the job fits"),
        ("gpus.ecc", SPEED, ON_GPU, "memory bandwidth, by some per cent"),
        ("gpus.mig", SPEED, ON_GPU, "a part of the GPU only"),
        ("gpus.power_limit_w", SPEED, ON_GPU, "clock under load"),
        ("gpus.pcie_*", SPEED, ON_GPU, "time of transfers"),
        ("gpus.*", SPEED, ON_GPU, "arithmetic, memory bandwidth, clocks"),
        ("network", SPEED, RANKS, "time of the sum of gradients, across nodes"),
        ("allocation.scheduler", NONE, ALWAYS, "none by itself"),
        ("allocation.partition", NONE, ALWAYS, "none by itself: its machines show in other fields"),
        ("allocation.nodes", SPEED, RANKS, "the sum of gradients crosses nodes"),
        ("allocation.cpus_on_node", NONE, ALWAYS, "the cores that the task may use count: usable_cores"),
        ("allocation.whole_node", MEASURE, ALWAYS, "neighbours on a shared node take bandwidth, cache and clock"),
        ("resources.cpus_per_rank", SPEED, ALWAYS, "threads of the arithmetic and of the loader"),
        ("resources.nodes", SPEED, RANKS, "the sum of gradients crosses nodes"),
        ("resources.ranks_per_node", SPEED, RANKS, "ranks share a node's memory and network"),
        ("resources.exclusive", MEASURE, ALWAYS, "neighbours on a shared node take bandwidth, cache and clock"),
        ("resources.*", NONE, ALWAYS, "limits of the task, which has ended within them"),
        ("host", UNKNOWN, ALWAYS, "nodes of one model differ by some per cent: time on several"),
    ),
    *_rows(
        SOFTWARE,
        ("software.torch", SPEED, ALWAYS, "kernels and their choice"),
        ("software.torch_threads", SPEED, ALWAYS, "threads of the arithmetic"),
        ("software.cpu_capability", SPEED, ON_CPU, "vector instructions that torch's kernels use"),
        ("software.matmul_precision", SPEED, ON_GPU, "products in TF32 instead of fp32: several times faster"),
        ("software.deterministic", SPEED, ALWAYS, "slower kernels for sums"),
        ("software.cuda", SPEED, ON_GPU, "kernels"),
        ("software.cudnn", SPEED, ON_GPU, "kernels"),
        ("software.nccl", SPEED, RANKS, "time of the sum of gradients"),
        ("software.hpc_kit", SPEED, ALWAYS, "models, loader and loop"),
        ("software.git_commit", SPEED, ALWAYS, "models, loader and loop"),
        ("software.image.lock_sha256", SPEED, ALWAYS, "versions of all libraries"),
        ("software.image.name", NONE, ALWAYS, "none by itself: its lock counts"),
        ("software.image", SPEED, ALWAYS, "libraries of an image instead of the machine's"),
        ("software.python", SPEED, ALWAYS, "the interpreter's part of small steps"),
        ("software.kernel", SPEED, ALWAYS, "scheduling, memory and mitigations, by some per cent"),
        ("software.libc", SPEED, ALWAYS, "memory allocation"),
        ("software.numpy", SPEED, ALWAYS, "loading of batches"),
        ("software.h5py", SPEED, STREAMED, "reading of shards while training"),
        ("software.mpi4py", NONE, ALWAYS, "ranks meet through it; no step uses it"),
        ("software.*", NONE, ALWAYS, "in no epoch"),
        ("environment.OMP_*", SPEED, ALWAYS, "number and places of threads"),
        ("environment.KMP_*", SPEED, ALWAYS, "number and places of threads"),
        ("environment.MKL_*", SPEED, ON_CPU, "threads and instructions of products"),
        ("environment.OPENBLAS_*", SPEED, ON_CPU, "threads and instructions of products"),
        ("environment.NCCL_*", SPEED, RANKS, "path of the sum of gradients"),
        ("environment.FI_*", SPEED, RANKS, "path of the sum of gradients"),
        ("environment.UCX_*", SPEED, RANKS, "path of the sum of gradients"),
        ("environment.MPICH_*", SPEED, RANKS, "path of the sum of gradients"),
        ("environment.CUDA_*", SPEED, ON_GPU, "waiting, caching and order of kernels"),
        ("environment.PYTORCH_*", SPEED, ALWAYS, "memory allocation"),
        ("environment.TORCH_*", UNKNOWN, ALWAYS, "by the variable: from logs to the choice of kernels"),
        ("environment.HDF5_*", SPEED, STREAMED, "reading of shards while training"),
    ),
    *_rows(
        MEASURED,
        ("work.device", MEASURE, ALWAYS, "a GPU's time and a CPU's are of different parts of the work"),
        ("work.clock", MEASURE, ALWAYS, "what begins and ends an epoch"),
        ("work.loader", MEASURE, ALWAYS, "an epoch with or without reading of files"),
        ("work.warm_up_epochs", NONE, ALWAYS, "warm-up epochs are left out"),
        ("benchmark.cache", MEASURE, ALWAYS, "an epoch with or without reading from the disk"),
        ("kind", NONE, ALWAYS, "the clocks of a benchmark cost below 1 %"),
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A field that differs: its values in A and in B, whether it `matters` here (None: not known), and how."""

    field: str
    a: str
    b: str
    matters: bool | None
    kind: str
    part: str
    effect: str

    def as_text(self) -> str:
        return f"{self.field}: {self.a} | {self.b} ({self.effect})"


def flatten(comparable: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested fields as dotted ones. Of a list of GPUs, each field holds its distinct values and `count` how
    many there are; other lists and empty objects are values."""
    flat: dict[str, Any] = {}
    for key, value in comparable.items():
        name = f"{prefix}{key}"
        if key == "gpus" and isinstance(value, list):
            flat[f"{name}.count"] = len(value)
            for inner in dict.fromkeys(inner for gpu in value for inner in gpu):
                distinct = sorted({_text(gpu.get(inner)) for gpu in value})
                flat[f"{name}.{inner}"] = ", ".join(distinct)
        elif isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        elif not isinstance(value, Mapping):
            flat[name] = value
    return flat


def differences(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[Difference]:
    """Return the fields whose values differ between the runs of A and of B, or among those of one of them.

    a, b: flattened records of each run. A field that one side does not tell, or that has no entry in the table, is
    not known to matter.
    """
    sides, found = (list(a), list(b)), []
    union = [one for side in sides for one in side]
    for name in sorted(set().union(*union)):
        default = NOT_SET if name.startswith("environment.") else None
        values = [list(dict.fromkeys(_text(one.get(name, default)) for one in side)) for side in sides]
        if values[0] == values[1] and len(values[0]) == 1:
            continue
        entry = entry_of(name)
        told = not any(one.get(name, default) is None for one in union)
        matters = _matters(entry, union) and (True if told else None)
        found.append(Difference(name, *map(", ".join, values), matters, entry.kind, entry.part, entry.effect))
    return found


def entry_of(name: str) -> Field:
    """Return the table's entry for a field; one of kind UNKNOWN where it has none."""
    unlisted = Field(name, SOFTWARE, UNKNOWN, ALWAYS, "no entry in the table")
    return next((entry for entry in FIELDS if fnmatch.fnmatchcase(name, entry.name)), unlisted)


def _matters(entry: Field, runs: list[Mapping[str, Any]]) -> bool | None:
    if entry.kind == UNKNOWN:
        return None
    holds = {
        ALWAYS: lambda one: True,
        ON_GPU: lambda one: one.get("work.device") != "cpu",
        ON_CPU: lambda one: one.get("work.device") == "cpu",
        RANKS: lambda one: one.get("work.world_size") != 1,
        STREAMED: lambda one: one.get("work.loader") != "in memory",
    }[entry.where]
    return entry.kind != NONE and any(holds(one) for one in runs)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "not known" if value is None else json.dumps(value)
