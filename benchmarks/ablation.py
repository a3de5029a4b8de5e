"""The ablation of jobs/alignn-ablation-small.yaml from one submission on the Slurm of the tests: 25 cells, 3 seeds.

    python benchmarks/ablation.py --out FOLDER [--layers 0 1 2 3 4] [--seeds 0 1 2]     (some 15 minutes; needs root)

Prepares the data from the package core-mof, submits the job once, kills its driver (SIGKILL) when a third of the
tasks is done, resumes it, and writes tables, fronts and figures beside the published ones, and the page, into FOLDER.
Prints the record for results/ablation.md. The nodes of that Slurm are one machine: two tasks run at a time, one core
each, so that no task's time is spent waiting for another.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from testbed import debian  # noqa: E402
from testbed.slurm import Cluster  # noqa: E402

from hpc_kit.bench.studies import read_study  # noqa: E402
from hpc_kit.bench.study_tables import unfit_in_words  # noqa: E402
from hpc_kit.runs.fingerprint import read_fingerprint  # noqa: E402
from hpc_kit.runs.layout import RunDir, TaskDir  # noqa: E402
from hpc_kit.runs.records import read_lines  # noqa: E402

HPC_KIT = [sys.executable, "-m", "hpc_kit"]
PREPARE = ["data", "prepare", "core_mof", "--limit", "160", "--cutoff", "2.2", "--out", "data/core-mof-160"]
SITE = f"""extends: {HERE.parent}/tests/testbed/site.yaml
name: two-cores
max_blocks: 1
partitions:
  cpu: {{cores: 2, memory_gb: 15, nodes: 4, max_walltime: "48:00:00"}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    folder = given.out.absolute()
    folder.mkdir(parents=True)
    (folder / "site.yaml").write_text(SITE)
    call(folder, *PREPARE)
    grid = f"grid={{model.alignn_layers: {given.layers}, model.gcn_layers: {given.layers}}}"
    over = ["--set", grid, "--set", f"seeds={given.seeds}"]
    with debian.locked("cluster"):
        cluster = Cluster()
        cluster.up()
        try:
            walls = submitted_killed_and_resumed(folder, over)
        finally:
            cluster.clear()
            cluster.down()
    record(folder, walls, max(given.layers))


def call(folder: Path, *words: str) -> str:
    done = subprocess.run([*HPC_KIT, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"hpc_kit {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def submitted_killed_and_resumed(folder: Path, over: list[str]) -> tuple[float, float]:
    """Submit the job, kill its driver when a third of the tasks is done, resume it; return the seconds of both."""
    words = ["submit", "--site", "site.yaml", "alignn-ablation-small", "--run", "run", *over]
    began = time.perf_counter()
    with (folder / "driver.log").open("wb") as log:
        driver = subprocess.Popen(
            [*HPC_KIT, *words], cwd=folder, stdout=log, stderr=log, start_new_session=True, env=os.environ
        )
        try:
            while len(done_tasks(folder)) < max(1, planned(folder) // 3):
                if driver.poll() is not None:
                    sys.exit(f"the driver ended by itself:\n{(folder / 'driver.log').read_text()[-2000:]}")
                time.sleep(0.5)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    killed = time.perf_counter()
    call(folder, "resume", "run")
    return killed - began, time.perf_counter() - killed


def planned(folder: Path) -> int:
    plan = folder / "run" / "plan.json"
    return len(json.loads(plan.read_text())["tasks"]) if plan.exists() else sys.maxsize


def done_tasks(folder: Path) -> list[dict]:
    return [line for line in read_lines(folder / "run" / "ledger.jsonl") if line["state"] == "done"]


def record(folder: Path, walls: tuple[float, float], last: int) -> None:
    over = ["--normalise-to", f"{last},{last}", "--published", "alignn_ablation"]
    table = call(folder, "bench", "table", "run", *over, "--out", "figures")
    absolute = call(folder, "bench", "pareto", "run", "--out", "figures-absolute")
    front = call(folder, "bench", "pareto", "run", *over, "--out", "figures")
    call(folder, "report", "run", "--html", "page.html")
    run = RunDir(folder / "run")
    tasks = run.read_plan().tasks
    ledger = read_lines(run.ledger)
    done = [line["task"] for line in ledger if line["state"] == "done"]
    once = "each once" if len(set(done)) == len(done) == len(tasks) else f"by {len(done)} lines of the ledger"
    started = [line["task"] for line in ledger if line["state"] == "started"]
    again = len(started) - len(set(started))
    print(f"{len(tasks)} tasks from one submission. Its driver was killed (SIGKILL) after {walls[0]:.0f} s; `resume`")
    print(
        f"took {walls[1]:.0f} s. In the end {len(set(done))} tasks were done, {once}; {again} were started again.\n"
    )
    print("\n".join(dict.fromkeys(conditions(run.task(task.id)) for task in tasks)))
    print("\n".join(unfit_in_words(read_study(run, ["epoch_s"]))) or "Every run had a quiet machine.")
    for title, text in (("Tables", table), ("Front", absolute), ("Front beside the published ones", front)):
        print(f"\n## {title}\n\n```\n{text.strip()}\n```")


def conditions(task: TaskDir) -> str:
    """Return on what and with what a task ran, in a line."""
    fields = read_fingerprint(task.fingerprint)
    comparable = fields["comparable"]
    cpu, software = comparable["cpu"]["model"], comparable["software"]
    versions = ", ".join(f"{name} {software[name]}" for name in ("hpc_kit", "torch", "python") if software.get(name))
    return f"{cpu}, {comparable['usable_cores']} usable cores; {versions}"


if __name__ == "__main__":
    main()
