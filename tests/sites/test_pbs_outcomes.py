"""What becomes of PBS's jobs, and how it is told: through a stand-in that really runs them."""

import time

import pytest
from pbs_jobs import alive, answering, ended, queue, running, state

from hpc_kit.sites.pbs import PBS


def test_exit_code_of_a_failed_script(pbs, tmp_path):
    record = ended(pbs, queue(tmp_path, "exit 7")[0])
    assert record.state == "failed" and "Exit_status=7" in record.evidence


def test_script_killed_by_a_signal_long_before_its_walltime_has_failed(pbs, tmp_path):
    record = ended(pbs, queue(tmp_path, "kill -9 $$")[0])
    assert record.state == "failed" and "Exit_status=265" in record.evidence


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
    assert record.state == "cancelled" and "terminated by" in record.evidence
    assert not alive(int(note.read_text()))


def test_queued_job_says_why_and_can_be_cancelled(pbs, tmp_path):
    first, _ = queue(tmp_path, "sleep 60", nodes=3)
    second, _ = queue(tmp_path, "true", nodes=2)
    pbs.wait(lambda: state(first) == "running")
    record = PBS().records([second])[second]
    assert record.state == "queued"
    assert "Insufficient amount of resource" in record.why
    PBS().cancel([second])
    assert ended(pbs, second).state == "cancelled"
    assert state(first) == "running"


def test_job_starts_when_another_leaves_its_nodes(pbs, tmp_path):
    first, _ = queue(tmp_path, "sleep 0.3", nodes=4)
    second, _ = queue(tmp_path, "true", nodes=4)
    assert ended(pbs, second).state == state(first) == "done"


def test_held_job(pbs, tmp_path):
    job, _ = queue(tmp_path, "true", options=("-h",))
    time.sleep(0.2)
    assert state(job) == "held"


def test_lost_node(pbs, tmp_path):
    job, _ = queue(tmp_path, "sleep 60")
    pbs.wait(lambda: state(job) == "running")
    pbs.inject("node-failure", job)
    record = ended(pbs, job)
    assert record.state == "node_failure"
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
        ("job_state = F; Exit_status = 0; substate = 92", "done"),
        ("job_state = X; Exit_status = 1; substate = 93", "failed"),
        ("job_state = F; Exit_status = -1", "failed"),
        ("job_state = F; Exit_status = -11", "node_failure"),
        ("job_state = F; Exit_status = -14", "node_failure"),
        ("job_state = F; Exit_status = -12", "preempted"),
        ("job_state = F; Exit_status = -26", "out_of_memory"),
        ("job_state = F; Exit_status = 137; comment = Cgroup memory limit exceeded", "out_of_memory"),
        ("job_state = F; Exit_status = 265; resources_used.walltime = 00:59:59", "failed"),
        ("job_state = F; Exit_status = 265; resources_used.walltime = 01:00:03", "time_limit"),
        ("job_state = F; Exit_status = 143; resources_used.walltime = 01:00:00", "time_limit"),
        ("job_state = F; Exit_status = 1; resources_used.walltime = 01:00:03", "failed"),
        ("job_state = F; Exit_status = 271; comment = Job run at x and terminated by me@login1", "cancelled"),
        ("job_state = F; Exit_status = 271; comment = Job run at x and terminated by Scheduler@s", "preempted"),
        ("job_state = F", "unknown"),
        ("job_state = M", "unknown"),
        ("job_state = W", "queued"),
        ("job_state = T", "queued"),
        ("job_state = S", "held"),
        ("job_state = B", "running"),
        ("job_state = E", "ending"),
    ],
)
def test_what_pbs_says_and_what_it_means(monkeypatch, tmp_path, said, expected):
    lines = "".join(f"    {line}\n" for line in [*said.split("; "), "Resource_List.walltime = 01:00:00"])
    answering(monkeypatch, tmp_path, f"Job Id: 7.pbs01.site.org\n{lines}\n")
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


def test_job_lost_by_the_server_is_not_in_the_answer(pbs, tmp_path):
    job, _ = queue(tmp_path, "sleep 60")
    pbs.inject("lose-job", job)
    pbs.wait(lambda: PBS().records([job]) == {})


def test_stand_in_ends_with_all_its_jobs(pbs, tmp_path):
    note = tmp_path / "pids"
    job, _ = queue(tmp_path, f"setsid sleep 300 & echo $! $$ > {note}.new; mv {note}.new {note}; sleep 300")
    running(pbs, job, note)
    pbs.stop()
    assert [pid for pid in note.read_text().split() if alive(int(pid))] == []
