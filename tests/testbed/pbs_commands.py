"""qsub, qselect and qdel as PBS has them, over the job table of standin.py; qstat is in pbs_qstat.py.

Messages, exit codes and the reading of #PBS lines follow OpenPBS's sources (src/cmds, src/lib/Liblog/pbs_messages.c).
An exit code is the server's error number modulo 256: 15001 (unknown job) becomes 153, 15139 (job has finished) 35.
"""

import getopt
import getpass
import os
import re
import shlex
import socket
import sys
import time
from pathlib import Path

import standin
from pbs_qstat import qstat

SERVER = "pbs01"
OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
USAGE = "usage: qsub [-a date_time] [-A account_string] [-c interval] ... [script | -- command [arg1 ...]]\n"
UNKNOWN, FINISHED, BAD_VALUE, BAD_RESOURCE, TOO_MUCH = 153, 35, 166, 187, 188
RESOURCES = (
    "select place walltime ncpus ngpus mem mpiprocs filesystems singularity_fakeroot system host vnode nodes software"
).split()


class Refused(Exception):
    """What goes to stderr, and the exit code."""


def qsub(argv: list[str]) -> int:
    where = standin.folder()
    try:
        options, names = _options(argv, "")
        if not names:
            raise Refused("qsub: no script given; standard input is not read here\n", 1)
        script = Path(names[0])
        if not script.is_file():
            raise Refused(f"qsub: script file:: {os.strerror(2)}\n", 1)
        text, asked_inside = script.read_text(), []
        for line in directives(text):
            try:
                found, rest = getopt.getopt(shlex.split(line), OPTIONS)
            except (getopt.GetoptError, ValueError):
                rest = [line]
            if rest:
                raise Refused(f"qsub: directive error: {line} \n", 1)
            asked_inside += found
        if (where / "refuse-submit").exists():
            asked = (where / "refuse-submit").read_text()
            raise Refused(asked or "qsub: Job violates queue and/or server resource limits\n", TOO_MUCH)
        print(_submit(where, script, text, (options, asked_inside), argv))
        return 0
    except Refused as refused:
        message, code = refused.args
        sys.stderr.write(message)
        return code


def _options(argv: list[str], prefix: str) -> tuple[list[tuple[str, str]], list[str]]:
    try:
        return getopt.getopt(argv, OPTIONS)
    except getopt.GetoptError as error:
        wrong = "requires an argument" if "requires" in error.msg else "invalid option"
        raise Refused(f"{prefix}qsub: {wrong} -- '{error.opt}'\n{USAGE}", 2) from None


def directives(text: str) -> list[str]:
    """Return what follows #PBS on the lines before the first line that is neither a comment nor empty."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith((":", "#")):
            break
        if line.startswith("#PBS "):
            found.append(line[5:].strip())
    return found


def _submit(where: Path, script: Path, text: str, options: tuple[list, list], argv: list[str]) -> str:
    """Queue the job. `options` are those of the command line and those of the directives.

    The command line wins; among directives the last of an option wins, but the first of a resource (set_resource.c).
    """
    outside, inside = options
    chosen = {name[1:]: value for name, value in [*inside, *outside] if name != "-l"}
    resources: dict[str, str] = {}
    for _, value in (pair for pair in [*outside, *inside] if pair[0] == "-l"):
        for part in value.split(","):
            name, found, amount = part.partition("=")
            if not found or not amount:
                raise Refused(f"qsub: illegal -l value\n{USAGE}", 2)
            if name not in RESOURCES:
                raise Refused(f"qsub: Unknown resource Resource_List.{name}\n", BAD_RESOURCE)
            resources.setdefault(name, amount)
    resources = {"walltime": "24:00:00", "place": "free"} | resources
    limit = _seconds(resources["walltime"])
    nodes, per_node, cores, gpus, memory = _chunks(resources.setdefault("select", "1:ncpus=1"))
    if nodes > standin.config(where)["nodes"]:
        raise Refused("qsub: Job violates queue and/or server resource limits\n", TOO_MUCH)
    name = chosen.get("N", script.name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,229}", name):
        raise Refused(f"qsub: illegal -N value\n{USAGE}", 2)
    if chosen.get("r", "y") not in ("y", "n"):
        raise Refused(f"qsub: illegal -r value\n{USAGE}", 2)
    if chosen.get("j", "n") not in ("oe", "eo", "n"):
        raise Refused(f"qsub: illegal -j value\n{USAGE}", 2)
    user, here = getpass.getuser(), os.getcwd()
    job = standin.add(
        where,
        user=user,
        name=name,
        queue=chosen.get("q", "workq"),
        account=chosen.get("A"),
        nodes=nodes,
        per_node=per_node,
        limit_s=limit,
        cwd=str(where / "home"),
        argv=[],
        stdout="",
        stderr=None,
        rerun=chosen.get("r", "y") == "y",
        nodefile="PBS_NODEFILE",
        env={},
        resources=resources | {"ncpus": str(cores * nodes), "nodect": str(nodes), "ngpus": str(gpus * nodes)},
        chunk={"ncpus": cores, "ngpus": gpus, "mem": memory},
        keep=chosen.get("k", "n"),
        join=chosen.get("j", "n"),
        submit_arguments=shlex.join(argv),
        state="held",
    )
    number = job["id"]
    copy, spool = where / "scripts" / f"{number}.SC", str(where / "spool" / f"{number}.OU")
    copy.write_text(text)
    out = os.path.join(here, chosen.get("o", f"{name}.o{number}"))
    out = os.path.join(out, f"{number}.{SERVER}.OU") if os.path.isdir(out) else out
    error = os.path.join(here, chosen.get("e", f"{name}.e{number}"))
    variables = dict(part.partition("=")[::2] for part in chosen.get("v", "").split(",") if part)
    variables |= os.environ if "V" in chosen else {}
    with standin.table(where) as data:
        data["jobs"][str(number)].update(
            argv=[chosen.get("S", "/bin/sh"), str(copy)],
            stdout=out,
            stderr=None if "o" in job["join"] else error,
            spool=out if "d" in job["keep"] else spool,
            env=variables
            | {
                "PBS_JOBID": f"{number}.{SERVER}",
                "PBS_JOBNAME": name,
                "PBS_QUEUE": job["queue"],
                "PBS_ENVIRONMENT": "PBS_BATCH",
                "PBS_O_WORKDIR": here,
                "PBS_O_HOST": socket.gethostname(),
            },
            state="held" if "h" in chosen else "queued",
        )
    return f"{number}.{SERVER}"


def _seconds(walltime: str) -> int:
    if not re.fullmatch(r"\d+(:\d+){0,2}", walltime):
        raise Refused("qsub: Illegal attribute or resource value Resource_List.walltime\n", BAD_VALUE)
    seconds = 0
    for part in walltime.split(":"):
        seconds = seconds * 60 + int(part)
    return seconds


def _chunks(select: str) -> tuple[int, int, int, int, str | None]:
    """Return how many chunks there are, and mpiprocs, ncpus, ngpus, mem of the first kind; a chunk is a node here."""
    count, first = 0, {}
    for chunk in select.split("+"):
        head, *pairs = chunk.split(":")
        if not head.isdigit():
            head, pairs = "1", chunk.split(":")
        amounts = dict(pair.partition("=")[::2] for pair in pairs)
        numbers = [amounts.get(name, "1") for name in ("ncpus", "ngpus", "mpiprocs")]
        memory = re.fullmatch(r"\d+([kmgt]?b)", amounts.get("mem", "1gb"))
        if int(head) < 1 or not all(n.isdigit() for n in numbers) or memory is None:
            raise Refused("qsub: Illegal attribute or resource value Resource_List.select\n", BAD_VALUE)
        for name in amounts:
            if name not in RESOURCES:
                raise Refused(f"qsub: Unknown resource Resource_List.{name}\n", BAD_RESOURCE)
        count += int(head)
        first = first or amounts
    ncpus = int(first.get("ncpus", "1"))
    return count, int(first.get("mpiprocs", "1")), ncpus, int(first.get("ngpus", "0")), first.get("mem")


def qselect(argv: list[str]) -> int:
    """Print the ids of the jobs that have not finished; -u USER is the one criterion known here."""
    options, _ = getopt.getopt(argv, "u:x")
    wanted = dict(options)
    with standin.table(standin.folder()) as data:
        for job in data["jobs"].values():
            if job["user"] == wanted.get("-u", job["user"]) and (job["state"] != "finished" or "-x" in wanted):
                print(f"{job['id']}.{SERVER}")
    return 0


def qdel(argv: list[str]) -> int:
    where, code = standin.folder(), 0
    try:
        ids = getopt.getopt(argv, "W:x")[1]
    except getopt.GetoptError:
        ids = []
    if not ids:
        sys.stderr.write("usage:\n\tqdel [-W force|suppress_email=X] [-x] job_identifier...\n\tqdel --version\n")
        return 2
    if (where / "fail-qdel").exists():
        sys.stderr.write(f"Connection refused\nqdel: cannot connect to server {SERVER} (errno=111)\n")
        return 111
    with standin.table(where) as data:
        for text in ids:
            job = data["jobs"].get(text.split(".")[0])
            if not re.fullmatch(r"\d+(\.[\w.-]+)?", text):
                sys.stderr.write(f"qdel: illegally formed job identifier: {text}\n")
                code = 1
            elif job is None:
                sys.stderr.write(f"qdel: Unknown Job Id {text}\n")
                code = UNKNOWN
            elif job["state"] == "finished":
                sys.stderr.write(f"qdel: Job has finished {text}\n")
                code = FINISHED
            elif job["state"] in ("queued", "held"):
                job.update(state="finished", reason="delete", ended=time.time())
            elif job["reason"] is None:
                job.update(reason="delete", by=f"{getpass.getuser()}@{socket.gethostname()}")
    return code


if __name__ == "__main__":
    COMMANDS = {"qsub": qsub, "qstat": qstat, "qselect": qselect, "qdel": qdel}
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
