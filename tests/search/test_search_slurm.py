"""A search over four nodes of a real Slurm, one of whose workers is killed."""

import os
import re
import signal

from conftest import SMALL
from on_schedulers import SiteRun

from hpc_kit.runs.records import read_lines
from hpc_kit.search.records import read_trials

JOB = """
name: hunt
kind: search
data: {source: sample, target: zpve}
search:
  strategy: random
  trials: 4
  space: {train.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}}
resources: {nodes: 4, ranks_per_node: 1, gpus_per_rank: 0, cpus_per_rank: 1, walltime: "00:05:00"}
"""


def test_search_on_four_nodes_goes_on_when_the_worker_of_one_is_killed(slurm, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    run = SiteRun(tmp_path)
    run._submit(str(tmp_path / "job.yaml"), [*SMALL, "train.epochs=20"], None)

    def hit():
        for folder in run.path.glob("tasks/*"):
            for trial in read_trials(folder):
                if trial.worker == 2 and trial.state == "running":
                    if len(read_lines(folder / "trials" / "tasks" / trial.id / "epochs.jsonl")) > 1:
                        return trial.number, folder

    number, folder = run.until(hit, "a trial on rank 2", 120)
    [pid] = re.findall(r"^rank 2 of 4 works at .*:(\d+)$", (folder / "log.txt").read_text(), re.MULTILINE)
    os.kill(int(pid), signal.SIGKILL)
    run.end()
    assert [end["state"] for end in run.ends()] == ["done"]  # in one attempt
    trials = {trial.number: trial for trial in read_trials(folder)}
    assert [trial.state for trial in trials.values()] == ["done"] * 4
    assert trials[number].attempts == 2 and trials[number].worker != 2
    log = folder / "trials" / "tasks" / trials[number].id / "log.txt"
    assert "resuming at epoch" in log.read_text()
    assert slurm.jobs() == []
