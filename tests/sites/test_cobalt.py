"""Cobalt, through the commands of a stand-in that really runs the jobs: headers, outcomes, refusals and failures."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from hpc_kit.sites.cobalt import Cobalt
from hpc_kit.sites.scheduler import Block, SchedulerError
from hpc_kit.spec.errors import InputError

BLOCK = Block(
    name="hk-a1-block-1",
    nodes=2,
    ranks=8,
    cores=128,
    gpus=8,
    memory_gb=None,
    whole_nodes=True,
    walltime_s=3601,
    partition="full-node",
    account="proj",
    options=("--attrs filesystems=home,grand:pubnet=true",),
    log=Path("/logs/hk-a1-block-1.log"),
)


def queue(folder: Path, body: str, name: str = "hk-a1-block-1", **changes) -> str:
    """Write a block's script with Cobalt's header and `body`, submit it, and return its id."""
    changes = {"log": folder / f"{name}.log", "nodes": 1, "name": name} | changes
    block = dataclasses.replace(BLOCK, **changes)
    script = folder / f"{name}.sh"
    script.write_text("\n".join(["#!/bin/bash", *Cobalt(folder).header(block), body]) + "\n")
    return Cobalt(folder).submit(script, block)


def state(folder: Path, job: str) -> str:
    return Cobalt(folder).records([job])[job].state


def ended(cobalt, folder: Path, job: str):
    """Wait until the server has forgotten the job, and return what a new Cobalt finds of it."""
    cobalt.wait(lambda: job not in cobalt.jobs())
    return Cobalt(folder).records([job])[job]


def test_header():
    assert Cobalt(Path("/logs")).header(BLOCK) == [
        "#COBALT -n 2",
        "#COBALT -q full-node",
        "#COBALT -t 61",
        "#COBALT -A proj",
        "#COBALT --jobname hk-a1-block-1",
        "#COBALT -O /logs/hk-a1-block-1",
        "#COBALT -o /logs/hk-a1-block-1.log",
        "#COBALT --attrs filesystems=home,grand:pubnet=true",
        "exec 2>&1",
    ]


@pytest.mark.parametrize("seconds", [1, 59, 60])
def test_minutes_are_rounded_up(seconds):
    block = dataclasses.replace(BLOCK, walltime_s=seconds, account=None)
    assert [line for line in Cobalt(Path("/logs")).header(block) if "-t" in line or "-A" in line] == ["#COBALT -t 1"]


@pytest.mark.parametrize("name", ["with blank.log", "$jobid.log", "tab\t.log"])
def test_log_path_that_cobalt_cannot_express_is_refused(name):
    with pytest.raises(InputError, match="no blank and no '\\$'"):
        Cobalt(Path("/logs")).header(dataclasses.replace(BLOCK, log=Path("/logs") / name))


def test_log_elsewhere_than_where_it_is_looked_for_is_refused():
    with pytest.raises(InputError, match="looked for in /other"):
        Cobalt(Path("/other")).header(BLOCK)


def test_script_path_with_a_blank_is_refused(tmp_path):
    with pytest.raises(InputError, match="no blank in the path of a script"):
        Cobalt(tmp_path).submit(tmp_path / "a b.sh", BLOCK)


def test_job_gets_what_the_header_asks(cobalt, tmp_path):
    job = queue(tmp_path, 'echo "$COBALT_JOBID $(wc -l < $COBALT_NODEFILE)"; echo to-stderr >&2', nodes=3)
    record = ended(cobalt, tmp_path, job)
    assert record.state == "done"
    assert "hk-a1-block-1.cobaltlog: Info: task completed normally with an exit code of 0;" in record.evidence
    assert 0 <= record.elapsed_s < 20
    assert (tmp_path / "hk-a1-block-1.log").read_text() == f"{job} 3\nto-stderr\n"


def test_running_job(cobalt, tmp_path):
    job = queue(tmp_path, "sleep 60", nodes=2)
    cobalt.wait(lambda: state(tmp_path, job) == "running")
    record = Cobalt(tmp_path).records([job])[job]
    assert record.elapsed_s is not None and "State=" in record.evidence


@pytest.mark.parametrize(("body", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_failed_script(cobalt, tmp_path, body, code):
    record = ended(cobalt, tmp_path, queue(tmp_path, body))
    assert record.state == "failed" and f"an exit code of {code};" in record.evidence


def test_walltime_ends_a_job(cobalt, tmp_path):
    cobalt.configure(speed=120)
    record = ended(cobalt, tmp_path, queue(tmp_path, "sleep 60", walltime_s=60))
    assert record.state == "time_limit"
    assert "maximum execution time exceeded" in record.evidence


def test_cancelled_while_running(cobalt, tmp_path):
    sign = tmp_path / "started"
    job = queue(tmp_path, f"trap '' TERM; touch {sign}; while :; do sleep 0.1; done")
    cobalt.wait(sign.exists)
    Cobalt(tmp_path).cancel([job])
    cobalt.wait(lambda: state(tmp_path, job) == "ending")
    record = ended(cobalt, tmp_path, job)
    assert record.state == "cancelled"
    assert "user delete requested with signal SIGTERM" in record.evidence


def test_cancelled_while_queued(cobalt, tmp_path):
    first = queue(tmp_path, "sleep 60", "first", nodes=3)
    second = queue(tmp_path, "true", "second", nodes=2)
    cobalt.wait(lambda: state(tmp_path, first) == "running")
    assert state(tmp_path, second) == "queued"
    Cobalt(tmp_path).cancel([second])
    records = Cobalt(tmp_path).records([first, second])
    assert {job: record.state for job, record in records.items()} == {first: "running", second: "cancelled"}


def test_held_job_says_why(cobalt, tmp_path):
    job = queue(tmp_path, "true", options=("--held",))
    record = Cobalt(tmp_path).records([job])[job]
    assert (record.state, record.why) == ("held", "user_hold")


def test_lost_node(cobalt, tmp_path):
    job = queue(tmp_path, "sleep 60")
    cobalt.wait(lambda: state(tmp_path, job) == "running")
    cobalt.inject("node-failure", job)
    record = ended(cobalt, tmp_path, job)
    assert record.state == "node_failure"


def test_job_that_left_no_trace_is_unknown(cobalt, tmp_path):
    job = queue(tmp_path, "sleep 60")
    cobalt.inject("lose-job", job)
    record = ended(cobalt, tmp_path, job)
    assert (record.state, record.evidence.split(": ")[1]) == (
        "unknown",
        "it has left the queue, and its cobaltlog does not say how it ended",
    )
    (tmp_path / "hk-a1-block-1.cobaltlog").unlink()
    record = Cobalt(tmp_path).records([job])[job]
    assert (record.state, record.evidence) == ("unknown", "it has left the queue and wrote no cobaltlog")


def test_two_jobs_in_one_cobaltlog_are_kept_apart(cobalt, tmp_path):
    first = queue(tmp_path, "exit 3")
    assert ended(cobalt, tmp_path, first).state == "failed"
    second = queue(tmp_path, "true")
    assert ended(cobalt, tmp_path, second).state == "done"
    assert state(tmp_path, first) == "failed"


def test_blanks_and_commas_in_a_column_are_read(tmp_path, monkeypatch):
    table = (
        "JobID  State    RunTime   Location                 JobName  \n"
        "============================================================\n"
        "7      running  01:00:01  thetagpu[01-02,5], x     hk-1     \n"
    )
    program = tmp_path / "qstat"
    program.write_text(f"#!/bin/sh\ncat <<END\n{table}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    record = Cobalt(tmp_path).records(["7"])["7"]
    assert record.elapsed_s == 3601.0 and "Location=thetagpu[01-02,5], x" in record.evidence


def test_server_that_does_not_answer(cobalt, tmp_path):
    job = queue(tmp_path, "true")
    cobalt.inject("fail-qstat")
    cobalt.inject("fail-qdel")
    with pytest.raises(SchedulerError, match="qstat: exit code 1: component error"):
        Cobalt(tmp_path).records([job])
    with pytest.raises(SchedulerError, match="qdel: exit code 1: component error"):
        Cobalt(tmp_path).cancel([job])
    with pytest.raises(SchedulerError, match="component error"):
        Cobalt(tmp_path).find("hk")


def test_find_by_the_beginning_of_the_name(cobalt, tmp_path):
    jobs = [queue(tmp_path, "sleep 60", name) for name in ("hk-a1-b1", "hk-a1-b2", "other")]
    assert Cobalt(tmp_path).find("hk-a1-") == jobs[:2]
    Cobalt(tmp_path).cancel([*jobs, "999"])
    cobalt.wait(lambda: Cobalt(tmp_path).find("") == [])
    Cobalt(tmp_path).cancel(jobs)
    assert Cobalt(tmp_path).records([]) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": ("--nosuch 1",)}, "no such option: --nosuch"),
        ({"options": ("-t soon",)}, "invalid time specification: illegal value 'soon' for minutes"),
        ({"options": ("--attrs a=b=c",)}, "Improperly formatted argument to attrs : a=b=c"),
        ({"options": ("-o /no/such/folder/log",)}, "directory /no/such/folder/log does not exist"),
        ({"nodes": 2000}, "node count out of realistic range"),
    ],
)
def test_malformed_option_is_refused_as_cobalt_refuses_it(cobalt, tmp_path, changes, message):
    with pytest.raises(SchedulerError, match=message):
        queue(tmp_path, "true", **changes)


def test_refused_submission_says_why(cobalt, tmp_path):
    cobalt.inject("refuse-submit")
    with pytest.raises(SchedulerError, match="Walltime greater than the 'full-node' queue max"):
        queue(tmp_path, "true")
    assert cobalt.jobs() == {}


def test_lines_that_do_not_follow_the_shebang_count_for_nothing(cobalt, tmp_path):
    script = tmp_path / "late.sh"
    script.write_text("#!/bin/bash\n\n#COBALT -n 1\n#COBALT -t 5\ntrue\n")
    with pytest.raises(SchedulerError, match="'time' not provided"):
        Cobalt(tmp_path).submit(script, BLOCK)


def test_stand_in_prints_the_documented_table(cobalt, tmp_path):
    job = queue(tmp_path, "sleep 60", nodes=4)
    waiting = queue(tmp_path, "true", "second")
    cobalt.wait(lambda: cobalt.jobs()[job]["state"] == "running")
    table = subprocess.run(["qstat"], capture_output=True, text=True).stdout.splitlines()
    assert table[0].split() == ["JobID", "User", "WallTime", "Nodes", "State", "Location"]
    assert set(table[1]) == {"="} and len(table[1]) == len(table[0])
    assert [line.split()[0::2] for line in table[2:]] == [
        [job, "01:01:00", "running"],
        [waiting, "01:01:00", "queued"],
    ]
    gone = subprocess.run(["qstat", "999"], capture_output=True, text=True)
    assert (gone.returncode, gone.stdout, gone.stderr) == (1, "", "")
