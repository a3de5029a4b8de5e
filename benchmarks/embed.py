"""Time and memory of maps of features and of roughness: UMAP in two and three dimensions, and ROGI with ROGI-XD, of
13,400 structures at once and by subsets; and a map of 130,000 structures, to see that its bound is kept.

Usage: python benchmarks/embed.py [--structures 13400] [--many 130000] [--width 128] [--repeats 3]
Features are made: a smooth curve of eight numbers in `width` dimensions, with noise. Each part is a process of its
own; its memory is that of all it started. "first" has numba compile UMAP, "again" is a second time in one process.
Prints Markdown; recorded runs are in benchmarks/results/.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
from measure import machine_line, wall_and_memory

from hpc_kit.embed.job import Umap
from hpc_kit.embed.maps import maps_of
from hpc_kit.embed.roughness import distances, indices, roughness


def features(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features [count, width] and a property [count] that is smooth over them but for some noise."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(count, 8))
    made = np.tanh(hidden @ generator.normal(size=(8, width)) / 3) + 0.02 * generator.normal(size=(count, width))
    return made.astype(np.float32), np.sin(hidden[:, 0]) + 0.3 * hidden[:, 1] + 0.05 * generator.normal(size=count)


def part(name: str, count: int, width: int) -> None:
    """Do one part in this process and print its seconds, without making features and imports."""
    given, values = features(count, width)
    began = time.perf_counter()
    if name in ("umap-2", "umap-3"):
        asked = Umap(dimensions=[int(name[-1])])
        found = maps_of(given, asked)
        print(f"first {time.perf_counter() - began:.1f} s", file=sys.stderr)
        began = time.perf_counter()
        found = maps_of(given, asked)
        trust = ", ".join(f"{key} {value:.4f}" for key, value in found.trustworthiness.items())
        print(f"again {time.perf_counter() - began:.1f} s; fitted on {found.fitted}; trustworthiness {trust}")
    elif name == "whole":
        rogi, xd = indices(distances(given, "euclidean"), values)
        print(f"{time.perf_counter() - began:.1f} s; ROGI {rogi:.4f}, ROGI-XD {xd:.4f}")
    else:
        found = roughness(given, values, whole=0)
        said = f"ROGI {found.rogi:.4f} ± {found.rogi_sd:.4f}, shuffled {found.rogi_permuted:.4f}"
        print(f"{time.perf_counter() - began:.1f} s; {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=13400)
    parser.add_argument("--many", type=int, default=130000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", nargs=2, metavar=("NAME", "COUNT"))
    asked = parser.parse_args()
    if asked.part:
        part(asked.part[0], int(asked.part[1]), asked.width)
        return
    print(f"{machine_line(numpy=np.__version__)}; features of width {asked.width}\n")
    print("| part | structures | wall s of the process | peak memory, MB | it says |\n|---|---|---|---|---|")
    for name, count in (
        ("umap-2", asked.structures),
        ("umap-3", asked.structures),
        ("subsets", asked.structures),
        ("whole", asked.structures),
        ("umap-2", asked.many),
        ("subsets", asked.many),
    ):
        argv = [sys.executable, __file__, "--width", str(asked.width), "--part", name, str(count)]
        walls, peaks = zip(*(wall_and_memory(argv) for _ in range(asked.repeats)), strict=True)
        said = in_process(argv)
        print(f"| {name} | {count} | {statistics.median(walls):.1f} | {max(peaks):.0f} | {said} |", flush=True)


def in_process(argv: list[str]) -> str:
    """Run a part and return what it says."""
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return " ".join([line for line in done.stderr.splitlines() if line.startswith("first")] + [done.stdout.strip()])


if __name__ == "__main__":
    main()
