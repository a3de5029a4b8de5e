"""qstat as PBS has it, over the job table of standin.py: the tables, and -f, which breaks long values."""

import getopt
import os
import sys
import time

import standin

SERVER = "pbs01"
UNKNOWN, FINISHED = 153, 35
WIDTH = 79
LETTERS = {
    "queued": "Q",
    "held": "H",
    "starting": "R",
    "running": "R",
    "killing": "R",
    "exiting": "E",
    "finished": "F",
}
USAGE = "usage: \nqstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format] [-D delim] [ job_identifier... | destination... ]\n"


def qstat(argv: list[str]) -> int:
    where = standin.folder()
    if (where / "fail-qstat").exists():
        sys.stderr.write(f"Connection refused\nqstat: cannot connect to server {SERVER} (errno=111)\n")
        return 111
    try:
        options, ids = getopt.getopt(argv, "fxu:aw")
    except getopt.GetoptError as error:
        sys.stderr.write(f"qstat: invalid option -- '{error.opt}'\n{USAGE}")
        return 2
    wanted = dict(options)
    with standin.table(where) as data:
        jobs = data["jobs"]
    code, shown = 0, []
    for text in ids or list(jobs):
        job = jobs.get(text.split(".")[0])
        if job is None:
            sys.stderr.write(f"qstat: Unknown Job Id {text}\n")
            code = UNKNOWN
        elif job["state"] == "finished" and "-x" not in wanted:
            if ids:
                message = "Job has finished, use -x or -H to obtain historical job information"
                sys.stderr.write(f"qstat: {text} {message}\n")
                code = FINISHED
        elif job["user"] == wanted.get("-u", job["user"]):
            shown.append(job)
    if "-f" in wanted:
        for job in shown:
            _print_full(job, standin.config(where)["speed"], (where / "old-pbs").exists())
    elif shown:
        _print_wide(shown) if {"-u", "-a"} & set(wanted) else _print_short(shown)
    return code


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"


def _used(job: dict, speed: float) -> float:
    return ((job["ended"] or time.time()) - job["started"]) * speed


def attributes(job: dict, speed: float, old: bool) -> dict:
    """Return what PBS tells of a job, in its names. `old`: PBS before it had an exit status for the time limit."""
    letter = LETTERS[job["state"]]
    said: dict = {
        "Job_Name": job["name"],
        "Job_Owner": f"{job['user']}@login1",
        "job_state": letter,
        "queue": job["queue"],
        "server": SERVER,
        "Checkpoint": "u",
        "ctime": time.ctime(job["submitted"]),
        "Error_Path": f"login1:{job['stderr'] or job['stdout']}",
        "Hold_Types": "u" if letter == "H" else "n",
        "Join_Path": job["join"],
        "Keep_Files": job["keep"],
        "Mail_Points": "a",
        "mtime": time.ctime(job["ended"] or job["started"] or job["submitted"]),
        "Output_Path": f"login1:{job['stdout']}",
        "Priority": 0,
        "qtime": time.ctime(job["submitted"]),
        "Rerunable": str(job["rerun"]),
        "Resource_List": dict(job["resources"]),
        "substate": {"Q": 10, "H": 20, "R": 42, "E": 51}.get(letter, 92),
        "Variable_List": {"PBS_O_HOME": os.environ.get("HOME", "/"), "PBS_O_QUEUE": job["queue"]} | job["env"],
        "Submit_arguments": job["submit_arguments"],
        "project": "_pbs_project_default",
        "run_count": job["runs"],
    }
    if job["account"] is not None:
        said["Account_Name"] = job["account"]
    if job["started"] is not None:
        chunk = ":".join(f"{name}={value}" for name, value in job["chunk"].items() if value)
        nodes = [standin.node_name(number) for number in job["placed"]]
        said["exec_host"] = "+".join(f"{node}/0*{job['chunk']['ncpus']}" for node in nodes)
        said["exec_vnode"] = "+".join(f"({node}:{chunk})" for node in nodes)
        said["stime"] = time.ctime(job["started"])
        used = {"cpupercent": 0, "cput": "00:00:00", "mem": "0kb", "ncpus": job["chunk"]["ncpus"]}
        said["resources_used"] = used | {"walltime": _clock(_used(job, speed))}
        said["comment"] = time.strftime("Job run at %a %b %d at %H:%M on ", time.localtime(job["started"]))
        said["comment"] += said["exec_vnode"]
    elif letter == "Q":
        said["comment"] = "Not Running: Insufficient amount of resource: ncpus"
    if letter == "F":
        _finish(said, job, old)
    return said


def _finish(said: dict, job: dict, old: bool) -> None:
    """Add how a job ended, as update_job_finish_comment of OpenPBS words it."""
    said["history_timestamp"] = int(job["ended"])
    if job["exit"] is None:  # deleted before it ran
        said["substate"] = 91
        return
    code = job["exit"] if job["exit"] >= 0 else 256 - job["exit"]
    suffix, said["substate"] = ("finished", 92) if code == 0 else ("failed", 93)
    if job["reason"] == "delete":
        suffix, said["substate"] = f"terminated by {job['by']}", 91
    elif job["reason"] == "preempt":
        suffix, said["substate"] = f"terminated by Scheduler@{SERVER}", 91
    elif job["reason"] == "node-failure":
        code, suffix, said["substate"] = -20, "failed", 93
    elif job["reason"] == "out-of-memory":
        code, suffix, said["substate"] = -27, "exceeded resource mem", 93
    elif job["reason"] == "limit" and not old:
        code, suffix, said["substate"] = -29, "exceeded resource walltime", 93
    elif job["reason"] == "not started":
        code, suffix, said["substate"] = -1, "failed", 93
    said["comment"] += f" and {suffix}"
    said["Exit_status"] = code


def _print_full(job: dict, speed: float, old: bool) -> None:
    print(f"Job Id: {job['id']}.{SERVER}")
    for name, value in attributes(job, speed, old).items():
        if name == "Variable_List":
            _print_pair(name, ",".join(f"{key}={text}" for key, text in value.items()))
        elif isinstance(value, dict):
            for key, amount in value.items():
                _print_pair(f"{name}.{key}", amount)
        else:
            _print_pair(name, value)
    print()


def _print_pair(name: str, value: object) -> None:
    line = f"    {name} = {value}"
    print("\n\t".join(line[start : start + WIDTH] for start in range(0, len(line), WIDTH)))


def _print_short(jobs: list[dict]) -> None:
    print("Job id            Name             User              Time Use S Queue")
    print("----------------  ---------------- ----------------  -------- - -----")
    for job in jobs:
        used = _clock(0) if job["started"] else "0"
        row = f"{job['id']}.{SERVER}".ljust(16)[:16], job["name"][:16], job["user"][:16], used, LETTERS[job["state"]]
        print("{:<16}  {:<16} {:<16}  {:>8} {} {}".format(*row, job["queue"][:15]))


def _print_wide(jobs: list[dict]) -> None:
    """Print the table of -u and -a: names are cut, a cut one ends in '*'."""
    print(f"\n{SERVER}: \n{'Req' + chr(39) + 'd':>64}  Req'd   Elap")
    print("Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time")
    print("--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----")
    for job in jobs:
        cut = [
            text if len(text) <= width else text[: width - 1] + "*"
            for text, width in ((f"{job['id']}.{SERVER}", 15), (job["user"], 8), (job["queue"], 8), (job["name"], 10))
        ]
        asked = _clock(job["limit_s"])[:5]
        ran = _clock(time.time() - job["started"])[:5] if job["started"] else "--"
        print(
            "{:<15} {:<8} {:<8} {:<10} {:>6} {:>3} {:>3} {:>6} {:>5} {} {:>5}".format(
                *cut, "--", job["nodes"], job["nodes"], "--", asked, LETTERS[job["state"]], ran
            )
        )
