"""PBS, through the commands of a stand-in that really runs the jobs: headers, refusals, failures of the server."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
from pbs_jobs import BLOCK, answering, ended, queue, running, state

from hpc_kit.sites.pbs import PBS
from hpc_kit.sites.scheduler import Followed, SchedulerError
from hpc_kit.spec.errors import InputError


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
    assert record.state == "done" and "Exit_status=0" in record.evidence
    assert 0 <= record.elapsed_s < 20
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


def test_unknown_job_does_not_lose_the_answer_for_the_others(pbs, tmp_path):
    job, _ = queue(tmp_path, "true")
    ended(pbs, job)
    assert list(PBS().records(["999.pbs01", job])) == [job]
    assert PBS().records(["999.pbs01"]) == {}
    assert PBS().records([]) == {}


def test_values_that_qstat_breaks_or_that_look_like_another_are_read_right(monkeypatch, tmp_path):
    comment = "Not Running: Insufficient amount of resource: ncpus, and more of the kind"
    lines = ["Job_Name = a", "job_state = Q", f"comment = {comment[:30]}\n\t{comment[30:]}"]
    lines += ['Variable_List = A=1,NOTE=say "hi" \\, twice\n    job_state = F\n    Exit_status = 0,B=\t005']
    text = "Job Id: 7.pbs01\n" + "".join(f"    {line}\n" for line in lines)
    answering(monkeypatch, tmp_path, f"{text}\n{text.replace('7.pbs01', '8.pbs01').replace('= Q', '= R')}\n")
    found = PBS().records(["7.pbs01", "8.pbs01", "9.pbs01"])
    assert {job: record.state for job, record in found.items()} == {"7.pbs01": "queued", "8.pbs01": "running"}
    assert found["7.pbs01"].why == comment


def test_answer_that_is_not_qstats_is_no_answer(monkeypatch, tmp_path):
    answering(monkeypatch, tmp_path, "Welcome! The system is down on Tuesday.\n")
    with pytest.raises(SchedulerError, match="not its documented form: 'Welcome"):
        PBS().records(["7.pbs01"])


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


def test_question_about_one_job_is_not_repeated_at_once(monkeypatch, tmp_path):
    answering(monkeypatch, tmp_path, "Job Id: 7.pbs01\n    job_state = R\n\n")
    followed = Followed(PBS())
    assert followed.ask_again("7.pbs01", 60.0).state == "running"
    answering(monkeypatch, tmp_path, "Job Id: 7.pbs01\n    job_state = F\n    Exit_status = 0\n\n")
    assert followed.ask_again("7.pbs01", 60.0).state == "running"
    assert followed.ask_again("7.pbs01", 0.0).state == "done"
