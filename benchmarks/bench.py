"""What the clocks of the phases cost: python benchmarks/bench.py overhead [--epochs 200] [--ranks 1].

One process trains, with the clocks in every second epoch; the ratio is over pairs of epochs next to each other, so
that slow changes of the machine are in both. Bound: 1 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BOUND = 1.01


def overhead(epochs: int, ranks: int) -> None:
    """Time `epochs` epochs of the sample's benchmark and print what the clocks cost."""
    timing = {"warmup_epochs": 2, "min_epochs": epochs, "max_epochs": epochs, "measure_overhead": True}
    sets = [
        f"benchmark={json.dumps(timing)}",
        f"resources={json.dumps({'ranks_per_node': ranks, 'gpus_per_rank': 0, 'cpus_per_rank': 1})}",
        "seeds=[0]",
    ]
    with tempfile.TemporaryDirectory() as folder:
        words = [word for text in sets for word in ("--set", text)]
        command = [sys.executable, "-m", "hpc_kit", "run", "benchmark-sample", *words, "--run", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        [path] = Path(folder).glob("run/tasks/*/metrics.json")
        found = json.loads(path.read_text())
    cost = found["overhead"]
    ends = "too few pairs" if cost["interval"] is None else "{:.4f} to {:.4f}".format(*cost["interval"])
    print(f"{ranks} ranks, {cost['pairs']} pairs of epochs of {found['median_epoch_s']:.3f} s (bound {BOUND})")
    print(f"time with the clocks over time without: {cost['ratio']:.4f}, 95 % interval of the median {ends}")
    for reason in found["unfit"]:
        print(f"unfit: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["overhead"])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=1)
    given = parser.parse_args()
    overhead(given.epochs, given.ranks)


if __name__ == "__main__":
    main()
