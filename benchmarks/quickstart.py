"""How long the login side takes to start, what Parsl and the ledger add, how much memory the quickstart needs.

Usage: python benchmarks/quickstart.py [--repeats 5]      (about 6 minutes on two cores)
Prints a Markdown table; recorded runs are in benchmarks/results/.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from hpc_kit.runs import fingerprint

HPC_KIT = [sys.executable, "-m", "hpc_kit"]
# One slot, so that `submit` does what `run` does: one task after the other.
ONE_SLOT = "name: one-slot\ndescription: this machine, one task at a time\nscheduler: local\nslots: 1\n"


def wall_s(argv: list[str], cwd: Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - began


def peak_tree_mb(argv: list[str], cwd: Path) -> tuple[float, float]:
    """Run `argv`; return its wall time and the largest sum of memory (PSS) over all processes it started."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                total += child.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"{argv} ended with {process.returncode}")
    return time.perf_counter() - began, peak / 2**20


def median_of(repeats: int, measure: Callable[[], float]) -> str:
    values = sorted(measure() for _ in range(repeats))
    return f"{statistics.median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    machine = fingerprint.collect({}, {})
    cpu = machine["comparable"]["cpu"]["model"]
    cores = machine["comparable"]["usable_cores"]
    print(f"{cpu}, {cores} usable cores, fingerprint {machine['sha256'][:12]}; medians (range) of {repeats}\n")
    print("| what | measured | bound |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        (cwd / "one-slot.yaml").write_text(ONE_SLOT)
        help_s = median_of(repeats, lambda: wall_s([*HPC_KIT, "--help"], cwd))
        print(f"| `hpc_kit --help`, s | {help_s} | 0.4 |")
        dry = [*HPC_KIT, "submit", "--site", "local", "quickstart", "--dry-run"]
        print(f"| `submit --dry-run` of the quickstart, s | {median_of(repeats, lambda: wall_s(dry, cwd))} | 1 |")
        short = ["quickstart", "--set", "train.epochs=1"]
        pairs = []
        for _ in range(repeats):  # alternating, so that a drift of the machine's speed hits both
            direct = wall_s([*HPC_KIT, "run", *short], cwd)
            pairs.append(wall_s([*HPC_KIT, "submit", "--site", "one-slot.yaml", *short], cwd) - direct)
        low, middle, high = min(pairs), statistics.median(pairs), max(pairs)
        print(f"| `submit` beyond `run`, the same 3 tasks one by one, s | {middle:.2f} ({low:.2f}-{high:.2f}) | 10 |")
        wall, peak = peak_tree_mb([*HPC_KIT, "submit", "--site", "local", "quickstart"], cwd)
        print(f"| quickstart, wall s (1 run) | {wall:.0f} | 180 |")
        print(f"| quickstart, peak memory of all its processes, MB | {peak:.0f} | 2000 |")


main()
