"""PBS, through the commands of a stand-in that really runs the jobs: headers, outcomes, refusals and failures."""

import dataclasses
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from hpc_kit.sites.pbs import PBS
from hpc_kit.sites.pbs_json import read_json
from hpc_kit.sites.scheduler import Block, SchedulerError
from hpc_kit.spec.errors import InputError

BLOCK = Block(
    name="hk-a1-block-1",
    nodes=1,
    ranks=1,
    cores=8,
    gpus=0,
    memory_gb=16,
    whole_nodes=False,
    walltime_s=60,
    partition="debug",
    account="proj",
    options=(),
    log=Path("/logs/block.log"),
)


def queue(folder: Path, body: str, **changes) -> tuple[str, Block]:
    """Write a block's script with PBS's header and `body`, submit it, and return its id and what it asked for."""
    block = dataclasses.replace(BLOCK, **({"log": folder / "block.log"} | changes))
    script = folder / f"{block.name}.sh"
    script.write_text("\n".join(["#!/bin/bash", *PBS().header(block), body]) + "\n")
    return PBS().submit(script, block), block


def state(job: str) -> str:
    return PBS().records([job])[job].state


def ended(pbs, job: str):
    """Wait for the job's end and return its record."""
    waiting = ("queued", "running", "ending")
    pbs.wait(lambda: state(job) not in waiting)
    return PBS().records([job])[job]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def running(pbs, job: str, sign: Path) -> None:
    pbs.wait(lambda: state(job) == "running" and sign.exists())


def test_header_of_part_of_a_node():
    assert PBS().header(BLOCK) == [
        "#PBS -S /bin/bash",
        "#PBS -N hk-a1-block-1",
        "#PBS -l select=1:ncpus=8:mpiprocs=1:mem=16gb",
        "#PBS -l place=scatter",
        "#PBS -l walltime=00:01:00",
        "#PBS -q debug",
        "#PBS -A proj",
        "#PBS -j oe",
        "#PBS -o /logs/block.log",
        "#PBS -r n",
    ]


def test_header_of_whole_nodes_with_options():
    block = dataclasses.replace(
        BLOCK,
        nodes=10,
        ranks=4,
        cores=32,
        gpus=4,
        whole_nodes=True,
        walltime_s=86399,
        account=None,
        options=("-l filesystems=home:eagle", "-k doe"),
    )
    assert PBS().header(block) == [
        "#PBS -S /bin/bash",
        "#PBS -N hk-a1-block-1",
        "#PBS -l select=10:ncpus=32:ngpus=4:mpiprocs=4",
        "#PBS -l place=scatter:excl",
        "#PBS -l walltime=23:59:59",
        "#PBS -q debug",
        "#PBS -j oe",
        "#PBS -o /logs/block.log",
        "#PBS -r n",
        "#PBS -l filesystems=home:eagle",
        "#PBS -k doe",
    ]


def test_an_option_takes_the_place_of_what_the_header_would_ask():
    lines = PBS().header(dataclasses.replace(BLOCK, options=("-l place=pack", "-l select=2")))
    assert [line for line in lines if "place" in line or "select" in line] == [
        "#PBS -l place=pack",
        "#PBS -l select=2",
    ]


@pytest.mark.parametrize("name", ["with blank", "a:b", "quo'te", "comma,", "$HOME", "^array_index^", "line\nbreak"])
def test_log_path_that_pbs_cannot_express_is_refused(name):
    with pytest.raises(InputError, match="PBS takes only"):
        PBS().header(dataclasses.replace(BLOCK, log=Path("/logs") / name))


def test_job_gets_what_the_header_asks(pbs, tmp_path):
    body = 'echo "$PBS_JOBNAME $PBS_QUEUE $(wc -l < $PBS_NODEFILE) $BASH_VERSION"; echo to-stderr >&2'
    job, block = queue(tmp_path, body, nodes=2, ranks=3, gpus=4)
    record = ended(pbs, job)
    assert (record.state, record.exit_code) == ("done", 0)
    assert "Exit_status=0" in record.evidence
    assert record.nodes == ("x001", "x002")
    assert 0 <= record.ended - record.started < 20
    words, error = block.log.read_text().splitlines()
    assert words.split()[:3] == ["hk-a1-block-1", "debug", "6"] and words.split()[3][0].isdigit()
    assert error == "to-stderr"


def test_log_is_there_at_the_end_or_at_once_with_k_doe(pbs, tmp_path):
    sign = tmp_path / "started"
    late, block = queue(tmp_path, f"echo hello; touch {sign}; sleep 60")
    running(pbs, late, sign)
    assert not block.log.exists()
    PBS().cancel([late])
    ended(pbs, late)
    assert block.log.read_text() == "hello\n"
    sign.unlink()
    block.log.unlink()
    soon, block = queue(tmp_path, f"echo hello; touch {sign}; sleep 60", options=("-k doe",))
    running(pbs, soon, sign)
    assert block.log.read_text() == "hello\n"


def test_exit_code_of_a_failed_script(pbs, tmp_path):
    record = ended(pbs, queue(tmp_path, "exit 7")[0])
    assert (record.state, record.exit_code) == ("failed", 7)


def test_script_killed_by_a_signal_long_before_its_walltime_has_failed(pbs, tmp_path):
    record = ended(pbs, queue(tmp_path, "kill -9 $$")[0])
    assert (record.state, record.exit_code) == ("failed", 137)
    assert "Exit_status=265" in record.evidence


@pytest.mark.parametrize(("old", "status"), [(False, "Exit_status=-29"), (True, "Exit_status=271")])
def test_walltime_ends_a_job(pbs, tmp_path, old, status):
    if old:
        pbs.inject("old-pbs")
    record = ended(pbs, queue(tmp_path, "sleep 60", walltime_s=1)[0])
    assert record.state == "time_limit"
    assert status in record.evidence
    assert record.elapsed_s >= 1


def test_job_that_ignores_sigterm_is_killed_with_all_its_processes(pbs, tmp_path):
    note = tmp_path / "pids"
    body = f"trap '' TERM; setsid sleep 300 & echo $! > {note}; while :; do sleep 0.1; done"
    job, _ = queue(tmp_path, body)
    running(pbs, job, note)
    pbs.wait(lambda: note.read_text().strip() != "")
    PBS().cancel([job])
    record = ended(pbs, job)
    assert (record.state, record.exit_code) == ("cancelled", 137)
    assert "terminated by" in record.evidence
    assert not alive(int(note.read_text()))


def test_queued_job_says_why_and_can_be_cancelled(pbs, tmp_path):
    first, _ = queue(tmp_path, "sleep 60", nodes=3)
    second, _ = queue(tmp_path, "true", nodes=2)
    pbs.wait(lambda: state(first) == "running")
    record = PBS().records([second])[second]
    assert (record.state, record.started) == ("queued", None)
    assert "Insufficient amount of resource" in record.why
    PBS().cancel([second])
    assert ended(pbs, second).state == "cancelled"
    assert state(first) == "running"


def test_job_starts_when_another_leaves_its_nodes(pbs, tmp_path):
    first, _ = queue(tmp_path, "sleep 0.3", nodes=4)
    second, _ = queue(tmp_path, "true", nodes=4)
    assert ended(pbs, second).started >= ended(pbs, first).started
    assert state(first) == "done"


def test_held_job(pbs, tmp_path):
    job, _ = queue(tmp_path, "true", options=("-h",))
    time.sleep(0.2)
    assert state(job) == "held"


def test_lost_node(pbs, tmp_path):
    job, _ = queue(tmp_path, "sleep 60")
    pbs.wait(lambda: state(job) == "running")
    pbs.inject("node-failure", job)
    record = ended(pbs, job)
    assert (record.state, record.exit_code) == ("node_failure", None)
    assert "Exit_status=-20" in record.evidence


def test_job_that_took_too_much_memory(pbs, tmp_path):
    job, _ = queue(tmp_path, "sleep 60")
    pbs.wait(lambda: state(job) == "running")
    pbs.inject("out-of-memory", job)
    record = ended(pbs, job)
    assert record.state == "out_of_memory"
    assert "exceeded resource mem" in record.evidence


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('"job_state":"F","Exit_status":0,"substate":92', "done"),
        ('"job_state":"X","Exit_status":1,"substate":93', "failed"),
        ('"job_state":"F","Exit_status":-1', "failed"),
        ('"job_state":"F","Exit_status":-11', "node_failure"),
        ('"job_state":"F","Exit_status":-14', "node_failure"),
        ('"job_state":"F","Exit_status":-12', "preempted"),
        ('"job_state":"F","Exit_status":-26', "out_of_memory"),
        ('"job_state":"F","Exit_status":137,"comment":"Cgroup memory limit exceeded"', "out_of_memory"),
        ('"job_state":"F","Exit_status":265,"resources_used":{"walltime":"00:59:59"}', "failed"),
        ('"job_state":"F","Exit_status":265,"resources_used":{"walltime":"01:00:03"}', "time_limit"),
        ('"job_state":"F","Exit_status":143,"resources_used":{"walltime":"01:00:00"}', "time_limit"),
        ('"job_state":"F","Exit_status":1,"resources_used":{"walltime":"01:00:03"}', "failed"),
        ('"job_state":"F","Exit_status":271,"comment":"Job run at x and terminated by me@login1"', "cancelled"),
        ('"job_state":"F","Exit_status":271,"comment":"Job run at x and terminated by Scheduler@s"', "preempted"),
        ('"job_state":"F"', "unknown"),
        ('"job_state":"M"', "unknown"),
        ('"job_state":"W"', "queued"),
        ('"job_state":"T"', "queued"),
        ('"job_state":"S"', "held"),
        ('"job_state":"B"', "running"),
        ('"job_state":"E"', "ending"),
    ],
)
def test_what_pbs_says_and_what_it_means(monkeypatch, tmp_path, said, expected):
    answer = f'{{"Jobs":{{"7.pbs01.site.org":{{{said},"Resource_List":{{"walltime":"01:00:00"}}}}}}}}'
    program = tmp_path / "qstat"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert state("7.pbs01") == expected


def test_preempted_job_is_killed_without_a_warning(pbs, tmp_path):
    sign = tmp_path / "warned"
    job, _ = queue(tmp_path, f"trap 'touch {sign}' TERM; sleep 60 & wait")
    pbs.wait(lambda: state(job) == "running")
    pbs.inject("preempt", job)
    assert ended(pbs, job).state == "preempted"
    assert not sign.exists()


def test_preempted_job_that_may_run_again_is_queued_again(pbs, tmp_path):
    note = tmp_path / "runs"
    job, _ = queue(tmp_path, f"echo run >> {note}; [ $(wc -l < {note}) = 2 ] || sleep 60", options=("-r y",))
    running(pbs, job, note)
    pbs.inject("preempt", job)
    assert ended(pbs, job).state == "done"
    assert note.read_text() == "run\nrun\n"


def test_unknown_job_does_not_lose_the_answer_for_the_others(pbs, tmp_path):
    job, _ = queue(tmp_path, "true")
    ended(pbs, job)
    assert list(PBS().records(["999.pbs01", job])) == [job]
    assert PBS().records(["999.pbs01"]) == {}
    assert PBS().records([]) == {}


def test_job_lost_by_the_server_is_not_in_the_answer(pbs, tmp_path):
    job, _ = queue(tmp_path, "sleep 60")
    pbs.inject("lose-job", job)
    pbs.wait(lambda: PBS().records([job]) == {})


@pytest.mark.parametrize("faults", ["", "escape", "number", "quote", "control", "comma"])
def test_known_faults_of_the_json_are_mended(pbs, tmp_path, faults):
    job, _ = queue(tmp_path, "exit 3")
    ended(pbs, job)
    pbs.inject("bad-json", faults)
    record = PBS().records([job])[job]
    assert (record.state, record.exit_code) == ("failed", 3)


def test_json_that_cannot_be_read_is_asked_for_job_by_job(pbs, tmp_path):
    good, bad = (queue(tmp_path, f"exit {code}")[0] for code in (0, 1))
    ended(pbs, good), ended(pbs, bad)
    pbs.inject("bad-json", "cut")
    assert {job: record.state for job, record in PBS().records([good, bad]).items()} == {good: "done", bad: "failed"}


def test_json_that_cannot_be_read_at_all(pbs, tmp_path):
    job, _ = queue(tmp_path, "true")
    pbs.inject("bad-json", "hopeless")
    with pytest.raises(SchedulerError, match=f"qstat .*{job}: the answer is not JSON"):
        PBS().records([job])


def test_mended_values_are_what_was_meant():
    text = '{\n"a":"\\\'x\\,y",\n"b":005,\n"c":"say "hi", twice",\n"d":{\n"e":1,\n"f":"1",\n}\n}\n'
    assert read_json(text) == {"a": "'x,y", "b": "005", "c": 'say "hi", twice', "d": {"e": 1, "f": "1"}}


def test_server_that_does_not_answer(pbs, tmp_path):
    job, _ = queue(tmp_path, "true")
    pbs.inject("fail-qstat")
    pbs.inject("fail-qdel")
    with pytest.raises(SchedulerError, match="exit code 111: Connection refused / qstat: cannot connect"):
        PBS().records([job])
    with pytest.raises(SchedulerError, match="qdel: cannot connect"):
        PBS().cancel([job])
    pbs.clear("fail-qstat")
    assert ended(pbs, job).state == "done"


def test_commands_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="qstat: no such command here"):
        PBS().records(["1.pbs01"])


def test_cancelling_what_has_ended_is_no_error(pbs, tmp_path):
    job, _ = queue(tmp_path, "true")
    ended(pbs, job)
    PBS().cancel([job, "999.pbs01"])
    PBS().cancel([])
    assert state(job) == "done"


def test_find_by_the_beginning_of_the_name(pbs, tmp_path):
    jobs = [queue(tmp_path, "sleep 60", name=name)[0] for name in ("hk-a1-b1", "hk-a1-a-long-name-of-b2", "other")]
    over, _ = queue(tmp_path, "true", name="hk-a1-b3")
    ended(pbs, over)
    assert PBS().find("hk-a1-") == jobs[:2]
    assert PBS().find("nothing") == []
    PBS().cancel(jobs)
    pbs.wait(lambda: PBS().find("hk-a1-") == [])


def test_refused_submission_says_why(pbs, tmp_path):
    pbs.inject("refuse-submit", "qsub: Unknown queue\n")
    with pytest.raises(SchedulerError, match="qsub: exit code 188: qsub: Unknown queue"):
        queue(tmp_path, "true")
    pbs.clear("refuse-submit")
    with pytest.raises(SchedulerError, match="Job violates queue and/or server resource limits"):
        queue(tmp_path, "true", nodes=5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("-Z 1", "directive error: -Z 1"),
        ("-l gpus=1", "Unknown resource Resource_List.gpus"),
        ("-l filesystems=", "illegal -l value"),
        ("-l select=0", "Illegal attribute or resource value Resource_List.select"),
        ("-r maybe", "illegal -r value"),
    ],
)
def test_malformed_option_is_refused_as_pbs_refuses_it(pbs, tmp_path, option, message):
    with pytest.raises(SchedulerError, match=message):
        queue(tmp_path, "true", options=(option,))


def test_stand_in_answers_in_the_documented_words(pbs, tmp_path):
    def said(*argv: str) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    job, _ = queue(tmp_path, "true")
    ended(pbs, job)
    finished = f"qstat: {job} Job has finished, use -x or -H to obtain historical job information\n"
    assert said("qstat", job) == (35, "", finished)
    assert said("qstat", "999.pbs01") == (153, "", "qstat: Unknown Job Id 999.pbs01\n")
    assert said("qdel", job) == (35, "", f"qdel: Job has finished {job}\n")
    assert said("qstat", "-u", os.environ.get("USER", "root"), "-f", "-F", "json")[0] == 2
    refused = "qsub: Illegal attribute or resource value Resource_List.walltime\n"
    assert said("qsub", "-l", "walltime=soon", str(tmp_path / "hk-a1-block-1.sh")) == (166, "", refused)
    waiting, _ = queue(tmp_path, "sleep 60", nodes=4)
    row = said("qstat", "-a")[1].splitlines()[-1].split()
    assert row[0] == waiting and row[2:4] == ["debug", "hk-a1-blo*"]
    assert f"Job Id: {job}\n    Job_Name = hk-a1-block-1\n" in said("qstat", "-x", "-f", job)[1]


def test_stand_in_ends_with_all_its_jobs(pbs, tmp_path):
    note = tmp_path / "pids"
    job, _ = queue(tmp_path, f"setsid sleep 300 & echo $! $$ > {note}.new; mv {note}.new {note}; sleep 300")
    running(pbs, job, note)
    pbs.stop()
    assert [pid for pid in note.read_text().split() if alive(int(pid))] == []
