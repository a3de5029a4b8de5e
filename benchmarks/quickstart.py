"""How long the login side takes to start, what Parsl and the ledger add, how much memory the quickstart needs.

Usage: python benchmarks/quickstart.py [--repeats 5]      (about 6 minutes on two cores)
Prints a Markdown table; recorded runs are in benchmarks/results/.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine_line, spread, wall_and_memory

HPC_KIT = [sys.executable, "-m", "hpc_kit"]
# One slot, so that `submit` does what `run` does: one task after the other.
ONE_SLOT = "name: one-slot\ndescription: this machine, one task at a time\nscheduler: local\nslots: 1\n"


def wall_s(argv: list[str], cwd: Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{machine_line()}; medians (range) of {repeats}\n")
    print("| what | measured | bound |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        (cwd / "one-slot.yaml").write_text(ONE_SLOT)
        help_s = spread([wall_s([*HPC_KIT, "--help"], cwd) for _ in range(repeats)], ".2f")
        print(f"| `hpc_kit --help`, s | {help_s} | 0.4 |")
        dry = [*HPC_KIT, "submit", "--site", "local", "quickstart", "--dry-run"]
        dry_s = spread([wall_s(dry, cwd) for _ in range(repeats)], ".2f")
        print(f"| `submit --dry-run` of the quickstart, s | {dry_s} | 1 |")
        short = ["quickstart", "--set", "train.epochs=1"]
        pairs = []
        for _ in range(repeats):  # alternating, so that a drift of the machine's speed hits both
            direct = wall_s([*HPC_KIT, "run", *short], cwd)
            pairs.append(wall_s([*HPC_KIT, "submit", "--site", "one-slot.yaml", *short], cwd) - direct)
        print(f"| `submit` beyond `run`, the same 3 tasks one by one, s | {spread(pairs, '.2f')} | 10 |")
        wall, peak = wall_and_memory([*HPC_KIT, "submit", "--site", "local", "quickstart"], cwd)
        print(f"| quickstart, wall s (1 run) | {wall:.0f} | 180 |")
        print(f"| quickstart, peak memory of all its processes, MB | {peak:.0f} | 2000 |")


main()
