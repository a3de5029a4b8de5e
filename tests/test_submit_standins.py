"""The driver through PBS and Cobalt: stand-ins that keep a real job table and really run the scripts."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import hpc_kit
from on_schedulers import SiteRun, same, undisturbed

from hpc_kit.sites.attempt import BLOCK_TIME

ONE = ["resources.walltime=00:01:00"]
TRAINED = ["seeds=[0]", "resources.walltime=00:01:00", "train.epochs=60"]
SITE = """
name: {dialect}
description: a stand-in of four nodes
scheduler: {dialect}
launcher: hydra
account: proj
partition: main
charge: {{unit: node-hours, per: {{nodes: 1}}}}
poll_s: 0.5
margin: "00:01:00"
max_blocks: 4
partitions:
  main: {{cores: 4, memory_gb: 16, nodes: 4, max_walltime: "24:00:00", whole_nodes: true}}
"""


@pytest.fixture(params=["pbs", "cobalt"])
def server(request):
    """One of the two, as a stand-in with its dialect's name."""
    running = request.getfixturevalue(request.param)
    running.dialect = request.param
    return running


@pytest.fixture
def site(server, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE.format(dialect=server.dialect))
    return path


def queue(server) -> list[str]:
    return [
        job for job, fields in server.jobs().items() if fields["state"] not in ("F", "X", "gone", "done", "finished")
    ]


def test_tasks_are_packed_and_each_is_done_once(server, site, tmp_path):
    seeds = ["seeds=[0,1,2,3,4,5]", "resources.cpus_per_rank=2", "resources.walltime=00:03:00", "probe.steps=3"]
    run = SiteRun(tmp_path, site).probe(*seeds)
    run.end()
    run.done_once()
    assert len({line["job"] for line in run.ledger() if line["state"] == "started"}) == 3
    assert hpc_kit("status", run.path, "--refresh", cwd=tmp_path).stdout.endswith("is in the queue\n")


def test_ranks_over_two_nodes_train_to_the_losses_of_one(server, site, tmp_path):
    hydra = Path(sys.prefix) / "mpich" / "bin"
    assert hydra.exists(), "PyPI's mpich belongs there; see the Makefile"
    site.write_text(site.read_text() + f"setup: ['export PATH={hydra}:$PATH']\n")
    over = ["seeds=[0]", "resources.nodes=2", "resources.walltime=00:02:00"]
    run = SiteRun(tmp_path, site).train(*over)
    run.end()
    run.done_once()
    same(run.losses(), undisturbed(*over), exactly=False)


def test_job_deleted_behind_our_back_is_named(server, site, tmp_path):
    run = SiteRun(tmp_path, site).train(*TRAINED)
    job = run.job()
    run.until_further()
    subprocess.run(["qdel", job], check=True)
    run.end(code=1)
    [end] = run.ends()
    assert end["state"] == "cancelled" and f"its block {job} was cancelled, not by this run" in end["reason"]
    run.resume().end()
    run.done_once()
    same(run.losses(), undisturbed(*TRAINED))


def test_failed_node_is_named_and_the_task_goes_on(server, site, tmp_path):
    run = SiteRun(tmp_path, site).probe(*ONE)
    job = run.job()
    run.until_further()
    server.inject("node-failure", job)
    run.end()
    run.counted_once()
    assert run.ends()[0]["state"] in ("node_failure", "lost") and run.ends()[0]["again"]


def test_silent_scheduler_changes_nothing(server, site, tmp_path):
    run = SiteRun(tmp_path, site).probe(*ONE)
    run.job()
    server.inject("fail-qstat")
    run.until_further()
    refused = hpc_kit("status", run.path, "--refresh", cwd=tmp_path)
    assert refused.returncode == 1 and "does not answer" in refused.stderr
    run.until_further()
    server.clear("fail-qstat")
    run.end()
    run.done_once()
    assert [end["state"] for end in run.ends()] == ["done"]


def test_job_that_vanishes_loses_no_task(server, site, tmp_path):
    run = SiteRun(tmp_path, site).probe(*ONE)
    job = run.job()
    run.until_further()
    server.inject("lose-job", job)
    run.end()
    run.counted_once()


def test_killed_driver_leaves_a_block_that_resume_ends(server, site, tmp_path):
    run = SiteRun(tmp_path, site).probe(*ONE)
    run.job()
    run.until_further()
    run.driver.send_signal(signal.SIGKILL)
    run.driver.wait()
    run.resume().end()
    run.counted_once()


def test_refused_block_is_the_users_error(server, site, tmp_path):
    server.inject("refuse-submit", "qsub: Unknown queue MSG=main")
    run = SiteRun(tmp_path, site).probe(*ONE)
    run.end(code=2)
    assert "takes no block: qsub:" in (tmp_path / "driver.log").read_text()


def test_preempted_job_of_pbs_goes_on(pbs, tmp_path):
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs"))
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*ONE)
    job = run.job()
    run.until_further()
    pbs.inject("preempt", job)
    run.end()
    run.counted_once()
    assert run.ends()[0]["again"]


def test_block_without_time_for_a_task_is_given_back_and_the_next_does_it(pbs, tmp_path):
    """The first block believes that it ends in half a minute. Its tasks are not blamed, however often it refuses."""
    once = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; export {BLOCK_TIME}=30; }}"
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs") + f"setup: ['{once}']\n")
    seeds = ["seeds=[0,1,2,3]", "resources.walltime=00:01:00", "probe.steps=3"]
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*seeds)
    run.end()
    run.done_once()
    assert [end["state"] for end in run.ends()] == ["done"] * 4
    first, second = dict.fromkeys(line["block"] for line in run.blocks())
    assert [line["state"] for line in run.blocks() if line["block"] == first] == ["asked", "queued", "given_back"]
    text = (tmp_path / "driver.log").read_text()
    assert "takes no more tasks, and another is asked for:" in text and "and a task may take 00:01:00" in text


def test_blocks_that_refuse_every_task_end_the_run_with_the_reason(pbs, tmp_path):
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs") + f"setup: ['export {BLOCK_TIME}=30']\n")
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*ONE)
    run.end(code=1)
    assert [end["state"] for end in run.ends()] == ["lost"]
    assert "3 blocks in a row took no task at all: " in (tmp_path / "driver.log").read_text()
    assert queue(pbs) == []


def test_scheduler_that_is_away_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    for name in ("qsub", "qstat", "qselect"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{name}: cannot connect to server pbs01 (errno=111)' >&2; exit 111\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs"))
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*ONE)
    run.end(code=1)
    assert "the scheduler of site 'pbs' does not answer: qsub:" in (tmp_path / "driver.log").read_text()


def instead(monkeypatch, tmp_path, name: str, body: str) -> None:
    """Put a command before the stand-in's, which `body` may call as "$real"."""
    real = shutil.which(name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).write_text(f"#!/bin/bash\nreal={real}\n{body}\n")
    (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")


def test_block_that_the_scheduler_forgets_while_it_works_is_not_given_up(pbs, tmp_path, monkeypatch):
    unknown = "{ echo 'qstat: Unknown Job Id' >&2; exit 153; }"
    instead(monkeypatch, tmp_path, "qstat", f'[ -e {tmp_path}/purged ] && {unknown}; exec "$real" "$@"')
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs"))
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*ONE)
    run.job()
    (tmp_path / "purged").touch()
    run.end()
    assert [line["state"] for line in run.ledger()] == ["submitted", "started", "done"]
    pbs.wait(lambda: queue(pbs) == [])


def test_blocks_that_never_appear_end_the_run(pbs, tmp_path, monkeypatch):
    instead(monkeypatch, tmp_path, "qsub", "echo $RANDOM.pbs01")
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs"))
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*ONE)
    run.end(code=1)
    assert [line["state"] for line in run.blocks()] == ["asked", "queued", "forgotten"] * 3
    said = "3 blocks in a row ended before they started a task: pbs took it and has never shown it"
    assert said in (tmp_path / "driver.log").read_text()


def test_block_that_dies_says_its_last_lines(pbs, tmp_path):
    (tmp_path / "site.yaml").write_text(SITE.format(dialect="pbs") + "setup: ['echo the licence is gone; exit 3']\n")
    run = SiteRun(tmp_path, tmp_path / "site.yaml").probe(*ONE)
    run.end(code=1)
    text = (tmp_path / "driver.log").read_text()
    assert text.count("Exit_status=3") == 4 and text.count("  | the licence is gone") == 4  # of each, and at the end
