"""What `bench compare` is worth: python benchmarks/compare.py coverage | repeats | speed | cases.

coverage: how often intervals hold the true ratio, in simulation. repeats: how often intervals of groups of 20 repeats
of one real job hold 1. speed: time to compare 1,000 runs. cases: real runs here that are equal, of 2 threads, of
another CPU's record, and beside a load. `repeats` and `cases` want a quiet machine.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.bench.compare import compare_runs
from hpc_kit.bench.configurations import read_configurations
from hpc_kit.bench.statistics import Side, ratio, slower_by
from hpc_kit.files import append_lines, write_json
from hpc_kit.plan import make_plan
from hpc_kit.runs import fingerprint
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import RunDir
from hpc_kit.runs.records import read_lines
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site

SIZES = [(2, 2), (3, 3), (3, 10), (5, 5), (10, 10)]
SMALL = [
    "data.split={train: 0.1, val: 0.02, test: 0.02, seed: 0}",
    "benchmark={warmup_epochs: 2, min_epochs: 12, max_epochs: 12}",
]


def coverage(count: int) -> None:
    """Print the share of intervals that hold the true ratio, for noise of three kinds between runs: 3 % between runs,
    3 % between epochs of a lag-1 correlation of 0.5."""
    print(
        f"{count} comparisons each: runs a side, noise, intervals that hold the truth (95 %), those of the bootstrap"
    )
    print("whatever the number of runs, false alarms of check (5 %)")
    for name, draw in NOISES.items():
        for sizes in SIZES:
            random, held, alarms, drawn, method = np.random.default_rng(0), 0, 0, 0, ""
            for _ in range(count):
                a, b = (_side(random, runs, draw) for runs in sizes)
                found = ratio(b, a)
                held, method = held + found.holds_one, found.method
                alarms += slower_by(b, a, 0.05).low > 1
                low, high = np.quantile(b.draws(1) - a.draws(0), [0.025, 0.975])
                drawn += low <= 0 <= high
            sides = f"{sizes[0]} and {sizes[1]} | {name}"
            shares = [f"{number / count:.1%}" for number in (drawn, alarms)]
            print(" | ".join([sides, f"{held / count:.1%} by {method}", *shares]), flush=True)


NOISES = {
    "normal": lambda random, size: random.normal(0, 1, size),
    "skewed": lambda random, size: random.exponential(1, size) - 1,
    "heavy tails": lambda random, size: random.standard_t(3, size) / np.sqrt(3),
}


def _side(random: np.random.Generator, runs: int, draw) -> Side:
    logs = draw(random, (runs, 15))
    for epoch in range(1, 15):
        logs[:, epoch] = 0.5 * logs[:, epoch - 1] + np.sqrt(0.75) * logs[:, epoch]
    return Side(list(np.exp(0.03 * draw(random, (runs, 1)) + 0.03 * logs)))


def repeats(count: int) -> None:
    """Time one job 20 times; print the share of intervals of two groups of its repeats that hold 1."""
    with tempfile.TemporaryDirectory() as folder:
        run = _run(Path(folder) / "run", f"seeds={list(range(20))}")
        [one] = read_configurations(run)
    for reason in [*one.unfit, *one.missing]:
        print(reason)
    medians = [float(np.median(each.seconds)) for each in one.runs]
    spread = np.std(np.log(medians), ddof=1)
    print(f"{len(medians)} repeats: {min(medians):.4f} to {max(medians):.4f} s, deviation {spread:.1%}")
    random = np.random.default_rng(0)
    for size in (2, 3, 5, 10):
        held, alarms = 0, 0
        for _ in range(count):
            order = random.permutation(len(one.runs))
            a, b = (Side([one.runs[n].seconds for n in order[k : k + size]]) for k in (0, size))
            found = ratio(b, a)
            held, alarms = held + found.holds_one, alarms + (slower_by(b, a, 0.05).low > 1)
        shares = f"{held / count:.1%} of {count} intervals hold 1, {alarms / count:.1%} false alarms"
        print(f"{size} and {size} repeats: {shares}")


def speed(count: int) -> None:
    """Print the time to compare `count` runs of 3 seeds and 30 epochs, made up, with the first."""
    with tempfile.TemporaryDirectory() as folder:
        where = fingerprint.collect({"device": "cpu", "world_size": 1, "loader": "in memory"}, {})
        runs = [_made_up(Path(folder) / str(number), number, where) for number in range(count)]
        began = time.perf_counter()
        compared = compare_runs(runs)
        seconds = time.perf_counter() - began
    verdicts = {one["verdict"] for run in compared["runs"] for one in run["configurations"]}
    print(f"{count} runs, {3 * count} tasks of 30 epochs: {seconds:.2f} s; verdicts {', '.join(sorted(verdicts))}")


def _made_up(path: Path, number: int, where: dict[str, Any]) -> RunDir:
    file, random = load_job("benchmark-sample", SMALL), np.random.default_rng(number)
    plan, site = make_plan(file), load_site("local")
    run = create_run(path, plan, file.job, site)
    for task in plan.tasks:
        walls = 1.0 * np.exp(random.normal(0, 0.03) + random.normal(0, 0.02, 30))
        lines = [
            {"epoch": n, "started_at": 1e9 + n, "wall_s": wall, "cpu_s": wall, "data_wait_s": 0.0, "compute_s": wall,
             "eval_s": 0.0, "checkpoint_s": 0.0, "graphs": 300, "graphs_per_s": 300 / wall, "warmup": n < 2,
             "cached": 1.0, "fingerprint": where["sha256"]}
            for n, wall in enumerate(walls.tolist())
        ]  # fmt: skip
        folder = run.task(task.id)
        append_lines(folder.epochs, lines)
        write_json(folder.fingerprint, where)
        folder.write_done(task.schema_version)
    return run


def cases() -> None:
    """Print the comparison of a run with each of four others, and whether the verdict is the one to be expected."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, equal = _run(folder / "base"), _run(folder / "equal")
        threads = _run(folder / "two-threads", "resources.cpus_per_rank=2")
        with _load():
            busy = _run(folder / "beside-a-load")
        other = _of_another_cpu(equal, folder / "another-cpu")
        for run, expected, reason in (
            (equal, "comparable", ""),
            (threads, "not comparable", "torch_threads"),
            (other, "not comparable", "cpu.model"),
            (busy, "not comparable", "B is unfit"),
        ):
            command = [sys.executable, "-m", "hpc_kit", "bench", "compare", "base", run.path.name]
            subprocess.run(command, cwd=folder, check=True)
            [one] = compare_runs([base, run])["runs"][0]["configurations"]
            right = one["verdict"] == expected and any(reason in text for text in one["reasons"])
            right &= run is not equal or one["difference"] == "no difference seen"
            outcome = "as expected" if right else "NOT as expected"
            print(f"{outcome}: {run.path.name}: {expected} {reason}\n", flush=True)


def _run(path: Path, *overrides: str) -> RunDir:
    words = [word for text in [*SMALL, *overrides] for word in ("--set", text)]
    command = [sys.executable, "-m", "hpc_kit", "run", "benchmark-sample", *words, "--run", str(path)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return RunDir(path)


@contextlib.contextmanager
def _load() -> Iterator[None]:
    """Keep every core busy meanwhile."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _of_another_cpu(run: RunDir, path: Path) -> RunDir:
    """Return a copy of a run whose records say that another CPU made them, written as tasks write theirs."""
    shutil.copytree(run.path, path)
    copy = RunDir(path)
    for task in copy.read_plan().tasks:
        folder = copy.task(task.id)
        content = json.loads(folder.fingerprint.read_text())
        content["comparable"]["cpu"]["model"] = "a CPU that is not here"
        content["sha256"] = fingerprint.comparable_sha256(content["comparable"])
        lines = [line | {"fingerprint": content["sha256"]} for line in read_lines(folder.epochs)]
        folder.epochs.unlink()
        append_lines(folder.epochs, lines)
        write_json(folder.fingerprint, content)
        folder.write_done(task.schema_version)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["coverage", "repeats", "speed", "cases"])
    parser.add_argument("--count", type=int, help="simulations, pairs of groups, or runs [1000]", default=1000)
    given = parser.parse_args()
    if given.part == "cases":
        cases()
    else:
        {"coverage": coverage, "repeats": repeats, "speed": speed}[given.part](given.count)


if __name__ == "__main__":
    main()
