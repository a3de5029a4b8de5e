"""What the benchmarks share: a command's wall time and memory, and how a series of figures is printed."""

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


def spread(values: list[float], form: str) -> str:
    """Return "median (least-greatest)"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"
