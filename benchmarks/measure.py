"""What the benchmarks share: wall time and memory of a command, the product rate, how figures are printed."""

import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil


def wall_and_memory(argv: list[str], cwd: Path | None = None) -> tuple[float, float]:
    """Run `argv`; return its seconds and the largest sum of memory (PSS, MB) over all processes it started."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                total += child.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.3)
    if process.returncode:
        sys.exit(f"{argv} ended with {process.returncode}")
    return time.perf_counter() - began, peak / 2**20


def machine_line(**versions: str) -> str:
    """Return what a record begins with: CPU, cores, and the fingerprint of this machine and `versions`."""
    from hpc_kit.runs import fingerprint  # which the environments of peers do not have

    found = fingerprint.collect({}, versions)
    cpu, cores = found["comparable"]["cpu"]["model"], found["comparable"]["usable_cores"]
    return f"{cpu}, {cores} usable cores, fingerprint {found['sha256'][:12]}"


def spread(values: list[float], form: str) -> str:
    """Return "median (least-greatest)"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def product_rate(seconds: float = 2.0) -> float:
    """Return the floating-point operations a second of the fp32 product of [20000, 256] and [256, 256]: the best of
    many, by whichever library is faster."""
    import torch

    from hpc_kit.models.layers import product

    a, b = torch.rand(20_000, 256), torch.rand(256, 256)
    best, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for multiply in (torch.mm, product):
            start = time.perf_counter()
            multiply(a, b)
            best = min(best, time.perf_counter() - start)
    return 2 * 20_000 * 256 * 256 / best
