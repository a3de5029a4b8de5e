"""What an image costs: its size, the start of a container, imports inside against outside, and how many files are
opened on the way, which is the reason for one image file on a parallel file system.

Usage: python benchmarks/images.py IMAGE.sif [--repeats 5] [--build NAME --base DIR]      (needs apptainer and strace)
Inside and outside hold the same packages where this environment was made under constraints.txt. Prints Markdown
tables; recorded runs are in benchmarks/results/.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import spread

from hpc_kit.runs import fingerprint

IMPORTS = {
    "python that does nothing": "",
    "import torch": "import torch",
    "import torch_geometric and hpc_kit's training loop": "import torch_geometric, hpc_kit.train.loop",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--build", help="build this image too, from a wheelhouse that is full, and time it")
    parser.add_argument("--base", type=Path, help="the root file system to build on")
    given = parser.parse_args()
    if not shutil.which("strace") or not shutil.which("apptainer"):
        sys.exit("this needs apptainer and strace on PATH")
    image = str(given.image.resolve())
    boxed = ["apptainer", "--silent", "exec", image]
    cpu = fingerprint.collect({}, {})["comparable"]
    print(f"{cpu['cpu']['model']}, {cpu['usable_cores']} usable cores; medians (range) of {given.repeats}\n")
    print(f"{given.image.name}: {given.image.stat().st_size / 1e6:.0f} MB, {_inside(boxed)} inside\n")
    if given.build:
        print(f"built in {_build(given.build, given.base) / 60:.1f} minutes, its wheels at hand\n")
    exec_s = [seconds([*boxed, "true"]) for _ in range(given.repeats)]
    print(f"`apptainer exec` of `true`: {spread(exec_s, '.2f')} s\n")
    print(
        "| what, by then in the page cache | outside, s | inside, s | inside / outside | files opened | not found |"
    )
    print("|---|---|---|---|---|---|")
    for name, code in IMPORTS.items():
        outside, inside = [], []
        for _ in range(given.repeats):
            outside.append(seconds([sys.executable, "-c", code]))
            inside.append(seconds([*boxed, "python3", "-c", code]))
        ratio = statistics.median(i / o for i, o in zip(inside, outside, strict=True))
        opened, missed = opens([sys.executable, "-c", code])
        print(f"| {name} | {spread(outside, '.2f')} | {spread(inside, '.2f')} | {ratio:.2f} | {opened} | {missed} |")
    print("\nFiles are counted outside; inside, the file system sees one file, the image.")


def seconds(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - began


def opens(argv: Sequence[str]) -> tuple[int, int]:
    """Return how many files a command opens or looks for, and how many of these are not there."""
    with tempfile.NamedTemporaryFile("r") as log:
        calls = "openat,stat,newfstatat,access,readlink,statx"
        subprocess.run(
            ["strace", "-f", "-o", log.name, "-e", f"trace={calls}", *argv], check=True, capture_output=True
        )
        lines = [line for line in log if re.search(r'"/', line)]
    return len(lines), sum("ENOENT" in line for line in lines)


def _inside(boxed: list[str]) -> str:
    out = subprocess.run([*boxed, "du", "-sm", "/opt/hpc_kit"], check=True, capture_output=True, text=True)
    count = subprocess.run(
        [*boxed, "sh", "-c", "find / -xdev -type f | wc -l"], check=True, capture_output=True, text=True
    )
    return f"{out.stdout.split()[0]} MB of Python environment and {int(count.stdout):,} files"


def _build(name: str, base: Path | None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "hpc_kit", "image", "build", name, "--out", f"{folder}/{name}.sif"]
        return seconds([*argv, *(["--base", str(base)] if base else [])])


if __name__ == "__main__":
    main()
