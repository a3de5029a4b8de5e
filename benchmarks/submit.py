"""What submission costs: start-up, planning, tasks a second, the driver's memory and CPU, calls of the scheduler,
replay.

    python benchmarks/submit.py [--tasks 1000] [--site SITE --account NAME]     (some 10 minutes)

Without --site only what needs no scheduler. With one, the same number of trivial tasks goes through `hpc_kit` and,
where it is installed, through submitit on the same cluster: both one CPU a task. A trivial task is a shell that
writes done.json: what is measured is the way there and back. submitit's starts a Python, so beside it ours does too.
Prints a Markdown table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from measure import machine_line, spread

from hpc_kit.runs.ledger import Ledger
from hpc_kit.spec.site import load_site

HPC_KIT = [sys.executable, "-m", "hpc_kit"]
# Stands in the place of a container: `trivial exec ... IMAGE hpc_kit task DIR`.
TRIVIAL = r"""#!/bin/sh
for last; do :; done
printf '{"schema_version": 2, "id": "%s", "finished_at": 0, "records": {}}' "${last##*/}" > "$last/done.json"
"""
PYTHON = f"""#!/bin/sh
for last; do :; done
exec {sys.executable} -c 'import json, sys
done = {{"schema_version": 2, "id": sys.argv[1].split("/")[-1], "finished_at": 0, "records": {{}}}}
json.dump(done, open(sys.argv[1] + "/done.json", "w"))' "$last"
"""
SLEEPING = "#!/bin/sh\nsleep 600\n"
PLAN = """
import resource, sys, time
from pathlib import Path
from hpc_kit.plan import make_plan
from hpc_kit.runs.create import create_run
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
file = load_job("quickstart", [f"seeds={list(range(int(sys.argv[1])))}"])
began = time.perf_counter()
plan = make_plan(file)
planned = time.perf_counter()
create_run(Path(sys.argv[2]), plan, file.job, load_site("local"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(planned - began, time.perf_counter() - planned, peak)
"""
CALLS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--site", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(f"{machine_line()}; medians (range)\n")
    print("| what | measured | bound |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        for name, text in (("trivial", TRIVIAL), ("python", PYTHON), ("sleeping", SLEEPING)):
            (cwd / name).write_text(text)
            (cwd / name).chmod(0o755)
        start_up(cwd, given.repeats)
        planning(cwd)
        replay(cwd, given.repeats)
        local = write_site(
            cwd / "local.yaml", {"name": "here", "description": "here", "scheduler": "local"}, "trivial"
        )
        print(
            f"| tasks/s, {given.tasks} trivial tasks, local site | {rate(cwd, local, given.tasks):.1f} | |",
            flush=True,
        )
        driver_at_10_000(cwd)
        if given.site:
            batch = write_site(cwd / "batch.yaml", {"extends": str(given.site.resolve())}, "trivial")
            ours = rate(cwd, batch, given.tasks)
            name = load_site(str(batch)).name
            print(f"| tasks/s, {given.tasks} trivial tasks, site {name} | {ours:.1f} | |", flush=True)
            beside_submitit(cwd, given.site, given.tasks)
            calls_an_hour(cwd, given.site, given.tasks)


def start_up(cwd: Path, repeats: int) -> None:
    dry = [
        *HPC_KIT,
        "submit",
        "--site",
        "delta",
        "--account",
        "a",
        "quickstart",
        "--set",
        "resources.gpus_per_rank=1",
    ]
    walls = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([*dry, "--dry-run"], cwd=cwd, check=True, capture_output=True)
        walls.append(time.perf_counter() - began)
    print(f"| `submit --site delta --dry-run`, s | {spread(walls, '.2f')} | 1 |", flush=True)


def planning(cwd: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-c", PLAN, "10000", str(cwd / "ten-thousand")], check=True, capture_output=True, text=True
    )
    plan, create, peak = map(float, out.stdout.split())
    print(f"| plan of 10,000 tasks, s | {plan:.1f} | 5 |")
    print(f"| their directories, s; peak memory of both, MB | {create:.1f}; {peak:.0f} | 300 MB |", flush=True)


def replay(cwd: Path, repeats: int) -> None:
    path, ids = cwd / "ledger.jsonl", [f"task-{i:05d}" for i in range(33_334)]
    with path.open("w") as file:
        for state in ("submitted", "started", "done"):
            for name in ids:
                file.write(json.dumps({"time": 1795465279.3, "task": name, "state": state, "attempt": 1}) + "\n")
    walls = []
    for _ in range(repeats):
        began = time.perf_counter()
        Ledger(path, ids)
        walls.append(time.perf_counter() - began)
    print(f"| replay of a ledger of 100,000 lines, s | {spread(walls, '.2f')} | 1 |", flush=True)


def write_site(path: Path, fields: dict, command: str) -> Path:
    path.write_text(yaml.safe_dump(fields | {"container": {"command": str(path.parent / command)}}))
    return path


def submit(cwd: Path, site: Path, tasks: int, run: str) -> list[str]:
    job = ["--set", f"seeds={list(range(tasks))}", "--set", "resources.walltime=00:01:00", "--set", "image=trivial"]
    return [*HPC_KIT, "submit", "--site", str(site), "quickstart", *job, "--run", run]


def rate(cwd: Path, site: Path, tasks: int) -> float:
    """Return tasks a second, from the first line of the ledger to the last."""
    run = f"run-{site.stem}"
    subprocess.run(submit(cwd, site, tasks, run), cwd=cwd, capture_output=True)
    lines = [json.loads(line) for line in (cwd / run / "ledger.jsonl").open()]
    assert sum(line["state"] == "done" for line in lines) == tasks, lines[-1]
    return tasks / (lines[-1]["time"] - lines[0]["time"])


def driver_at_10_000(cwd: Path) -> None:
    """Watch the driver of the 10,000 planned tasks for a minute: its own memory and CPU, not its workers'."""
    site = write_site(cwd / "idle.yaml", {"name": "here", "description": "here", "scheduler": "local"}, "sleeping")
    run = "watched"
    driver = subprocess.Popen(
        submit(cwd, site, 10_000, run), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    ledger = cwd / run / "ledger.jsonl"
    while not ledger.exists() or b'"started"' not in ledger.read_bytes():
        time.sleep(0.2)
    watched = psutil.Process(driver.pid)
    before, began, peak = sum(watched.cpu_times()[:2]), time.perf_counter(), 0
    while time.perf_counter() < began + 60:
        peak = max(peak, watched.memory_info().rss / 2**20)
        time.sleep(1)
    cpu = (sum(watched.cpu_times()[:2]) - before) / 60
    print(f"| driver with 10,000 tasks: memory, MB; share of a core | {peak:.0f}; {cpu:.1%} | 300 MB |", flush=True)
    subprocess.run([*HPC_KIT, "cancel", run], cwd=cwd, check=True, capture_output=True)
    driver.wait()


def beside_submitit(cwd: Path, site: Path, tasks: int) -> None:
    same = write_site(cwd / "python.yaml", {"extends": str(site.resolve())}, "python")
    peer = submitit_rate(cwd, same, tasks)
    if peer:
        ours = rate(cwd, same, tasks)
        print(f"| tasks/s, {tasks} tasks that start a Python; submitit's job array | {ours:.1f}; {peer:.1f} | |")
        print(f"| ours / submitit | {ours / peer:.1f} | |", flush=True)


def submitit_rate(cwd: Path, site: Path, tasks: int) -> float | None:
    try:
        import submitit
    except ModuleNotFoundError:
        return None
    known = load_site(str(site))
    executor = submitit.AutoExecutor(folder=cwd / "submitit", cluster="slurm")
    executor.update_parameters(
        timeout_min=5, cpus_per_task=1, mem_gb=0.5, slurm_partition=known.partition, slurm_account=known.account,
        slurm_array_parallelism=64,
    )  # fmt: skip
    began = time.perf_counter()
    jobs = executor.map_array(trivial, range(tasks))
    assert [job.result() for job in jobs] == list(range(tasks))
    return tasks / (time.perf_counter() - began)


def trivial(number: int) -> int:
    return number


def calls_an_hour(cwd: Path, site: Path, tasks: int) -> None:
    """Count the scheduler's commands of a driver whose blocks wait in the queue, for three minutes, at poll_s 60."""
    shims, log = cwd / "shims", cwd / "calls.txt"
    shims.mkdir()
    for name in CALLS:
        real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (shims / name).write_text(f'#!/bin/sh\necho {name} >> {log}\nexec {real} "$@"\n')
        (shims / name).chmod(0o755)
    fields = {"extends": str(site.resolve()), "poll_s": 60, "options": ["--begin=now+1hour"]}
    path = write_site(cwd / "waiting.yaml", fields, "trivial")
    environment = os.environ | {"PATH": f"{shims}:{os.environ['PATH']}"}
    with (cwd / "waiting.log").open("wb") as out:
        driver = subprocess.Popen(
            submit(cwd, path, tasks, "waiting"), cwd=cwd, env=environment, stdout=out, stderr=out
        )
    while not log.exists() or "sbatch" not in log.read_text():
        time.sleep(0.5)
    time.sleep(10)
    before = len(log.read_text().splitlines())
    time.sleep(180)
    made = (len(log.read_text().splitlines()) - before) * 20
    subprocess.run([*HPC_KIT, "cancel", "waiting"], cwd=cwd, env=environment, check=True, capture_output=True)
    driver.wait()
    print(f"| scheduler calls an hour, {tasks} tasks queued in {before} calls | {made} | |")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    main()
