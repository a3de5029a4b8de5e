"""qsub, qstat and qdel as Cobalt has them, over the job table of standin.py.

Options, messages, tables and the lines of the cobaltlog follow Cobalt's sources (src/clients/POSIX/*.py,
src/lib/client_utils.py, src/components/cqm.py).
"""

import getpass
import optparse
import os
import shlex
import string
import sys
import time
from pathlib import Path

import standin

STATES = {"held": "user_hold"}  # the others have the same names here as there
HEADER = "JobID:User:WallTime:Nodes:State:Location"
FULL_HEADER = "JobID:JobName:User:WallTime:QueuedTime:RunTime:TimeRemaining:Nodes:State:Location:Queue:StartTime"


class Refused(Exception):
    """What goes to stderr; the exit code is 1."""


def qsub(argv: list[str]) -> int:
    where = standin.folder()
    try:
        options, words = _parser().parse_args(argv)
        script, found = _script(words)
        if found:
            options, words = _parser().parse_args([*found, *argv])
        if options.time is None:
            raise Refused("'time' not provided")
        if options.nodecount is None:
            raise Refused("'nodecount' not provided")
        if not 0 < options.nodecount <= 1024:
            raise Refused("node count out of realistic range")
        minutes = _minutes(options.time)
        _check_attributes(options.attrs)
        if (where / "refuse-submit").exists():
            raise Refused(
                (where / "refuse-submit").read_text() or f"Walltime greater than the '{options.queue}' queue max"
            )
        if options.nodecount > standin.config(where)["nodes"]:
            raise Refused(f"Node count {options.nodecount} is greater than the partition max")
        number = _submit(where, script, words[1:], options, minutes, shlex.join([*found, *argv]))
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    print(number)
    return 0


def _parser() -> optparse.OptionParser:
    parser = optparse.OptionParser(prog="qsub", add_help_option=False)
    parser.disable_interspersed_args()
    for flags in ("-v --verbose", "-h --held", "--preemptable", "--run_project"):
        parser.add_option(*flags.split(), action="store_true", default=False)
    parser.add_option("-n", "--nodecount", type="int")
    parser.add_option("-q", "--queue", default="default")
    for flags in (
        "--proccount|-A --project|--cwd|-M --notify|--env|-t --time|-u --umask|-O --outputprefix|-e --error|"
        "-o --output|-i --inputfile|--debuglog|--dependencies|--attrs|--user_list|--jobname|--mode"
    ).split("|"):
        parser.add_option(*flags.split())
    return parser


def _script(words: list[str]) -> tuple[Path, list[str]]:
    """Return the script and the words of its #COBALT lines: right after the first, split at blanks."""
    if not words:
        raise Refused(
            "Usage: qsub [options] <executable> [<executable options>]\n\nNo executable or script specified\n"
        )
    path = Path(os.path.join(os.getcwd(), words[0].replace(" ", "")))  # Cobalt takes blanks out of the path
    if not path.is_file():
        raise Refused(f"command {path} not found, or is not a file")
    if not os.access(path, os.X_OK | os.R_OK):
        raise Refused(f"command {path} is not executable")
    lines, found = path.read_text(errors="replace").splitlines(), []
    if lines and lines[0].startswith("#!"):
        for line in lines[1:]:
            if not line.startswith("#COBALT ") or len(line) < 9:
                break
            found = found or ["--mode", "script"]
            found += line[8:].split()
    return path, found


def _minutes(text: str) -> int:
    units = text.split(":")
    if len(units) > 4:
        raise Refused("invalid time specification: time may be specified as minutes, HH:MM, HH:MM:SS, or DD:HH:MM:SS")
    names = {1: ["minutes"], 2: ["hours", "minutes"], 3: ["hours", "minutes", "seconds"]}
    for name, unit in zip(names.get(len(units), ["days", "hours", "minutes", "seconds"]), units, strict=False):
        if not unit.isdigit():
            raise Refused(f"invalid time specification: illegal value '{unit}' for {name}")
    if len(units) == 1:
        return int(units[0])
    hours, minutes = units[-3:-1] if len(units) > 2 else units
    return int(units[0]) * 1440 * (len(units) == 4) + int(hours) * 60 + int(minutes)


def _check_attributes(text: str | None) -> None:
    for pair in (text or "").split(":"):
        if pair.count("=") > 1:
            raise Refused(f"Improperly formatted argument to attrs : {pair}")


def _path(text: str, cwd: str) -> str:
    path = os.path.join(cwd, text)
    if not os.path.isdir(os.path.dirname(path)):
        raise Refused(f"directory {path} does not exist")
    return path


def _submit(where: Path, script: Path, words: list[str], options: optparse.Values, minutes: int, said: str) -> int:
    cwd = options.cwd or os.getcwd()
    given = {"output": options.output, "error": options.error, "cobaltlog": options.debuglog}
    if options.outputprefix is not None:
        given = {name: text or f"{options.outputprefix}.{name}" for name, text in given.items()}
    given = {name: _path(text or f"$jobid.{name}", cwd) for name, text in given.items()}
    job = standin.add(
        where,
        user=getpass.getuser(),
        name=options.jobname or "N/A",
        queue=options.queue,
        account=options.project,
        nodes=options.nodecount,
        per_node=1,
        limit_s=minutes * 60,
        cwd=cwd,
        argv=[str(script), *words],
        rerun=False,
        nodefile="COBALT_NODEFILE",
        env={},
        stdout="",
        stderr="",
        state="held",
    )
    number = job["id"]
    paths = {name: string.Template(text).safe_substitute(jobid=number) for name, text in given.items()}
    variables = dict(pair.partition("=")[::2] for pair in (options.env or "").split(":") if pair)
    with open(paths["cobaltlog"], "a", encoding="utf-8") as log:
        log.write(f"Jobid: {number}\nqsub {said}\n")
        log.write(f"{_stamp(time.time())} submitted with cwd set to: {cwd}\n")
    own = {"COBALT_JOBID": str(number), "COBALT_PROJECT": options.project or "", "COBALT_QUEUE": options.queue}
    with standin.table(where) as data:
        data["jobs"][str(number)].update(
            stdout=paths["output"],
            stderr=paths["error"],
            cobaltlog=paths["cobaltlog"],
            env=variables | own | {"COBALT_JOBSIZE": str(options.nodecount)},
            state="held" if options.held else "queued",
        )
    return number


def qstat(argv: list[str]) -> int:
    where = standin.folder()
    if (where / "fail-qstat").exists():
        sys.stderr.write(
            "component error: XMLRPC failure <Fault 1: 'Connection refused'> in queue-manager.get_jobs\n"
        )
        return 1
    parser = optparse.OptionParser(prog="qstat", add_help_option=False)
    for flags in ("-f --full", "-l --long", "--reverse"):
        parser.add_option(*flags.split(), action="store_true")
    for flags in ("--header", "--sort", "-u --user"):
        parser.add_option(*flags.split())
    options, names = parser.parse_args(argv)
    for name in names:
        if not name.isdigit():
            sys.stderr.write(f"{name} is not a valid jobid or queue name\n")
            return 1
    with standin.table(where) as data:
        jobs = [job for number, job in data["jobs"].items() if not names or number in names]
    jobs = [job for job in jobs if options.user in (None, job["user"])]
    if names and not jobs:
        return 1
    asked = options.header or (FULL_HEADER if options.full else os.environ.get("QSTAT_HEADER", HEADER))
    columns, speed = asked.split(":"), standin.config(where)["speed"]
    rows = [columns, *([_row(job, speed).get(name.lower(), "-") for name in columns] for job in jobs)]
    if options.long:
        for row in rows[1:]:
            print("\n".join(f"{name:<20}: {value}" for name, value in zip(columns, row, strict=True)) + "\n")
    else:
        _print_table(rows)
    return 0


def _row(job: dict, speed: float) -> dict[str, str]:
    began = job["started"]
    ran = (time.time() - began) * speed if began else None
    return {
        "jobid": str(job["id"]),
        "jobname": job["name"],
        "user": job["user"],
        "walltime": _clock(job["limit_s"]),
        "queuedtime": _clock((began or time.time()) - job["submitted"]),
        "runtime": _clock(ran) if began else "N/A",
        "timeremaining": _clock(max(0, job["limit_s"] - ran)) if began else "N/A",
        "nodes": str(job["nodes"]),
        "state": STATES.get(job["state"], job["state"]),
        "location": ",".join(standin.node_name(number) for number in job["placed"]) or "None",
        "queue": job["queue"],
        "starttime": _stamp(began) if began else "N/A",
        "project": str(job["account"]),
    }


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"


def _stamp(seconds: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y +0000 (UTC)", time.gmtime(seconds))


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["".join(f"{text:<{width}}  " for text, width in zip(row, widths, strict=True)) for row in rows]
    print("\n".join([lines[0], "=" * (sum(widths) + 2 * len(widths)), *lines[1:]]))


def qdel(argv: list[str]) -> int:
    where, user, deleted = standin.folder(), getpass.getuser(), []
    if (where / "fail-qdel").exists():
        sys.stderr.write(
            "component error: XMLRPC failure <Fault 1: 'Connection refused'> in queue-manager.del_jobs\n"
        )
        return 1
    if not argv:
        sys.stderr.write("Usage: qdel [options] <jobid1> [ ... <jobidN>]\n\nNo Jobid(s) given\n\n")
        return 1
    for word in argv:
        if not word.isdigit():
            sys.stderr.write(f"jobid must be an integer: {word}\n")
            return 1
    with standin.table(where) as data:
        for word in argv:
            job = data["jobs"].get(word)
            if job is None or job["user"] != user:
                continue
            deleted.append([word, user])
            if job["state"] in ("queued", "held"):
                standin.cobaltlog(job, "Info: user delete requested; removing job from the queue")
                del data["jobs"][word]
            elif job["reason"] is None and job["state"] != "exiting":
                standin.cobaltlog(job, f"Info: user delete requested with signal SIGTERM by user {user}")
                job["reason"] = "delete"
    if deleted:
        print("      Deleted Jobs")
        _print_table([["JobID", "User"], *deleted])
    return 0


if __name__ == "__main__":
    COMMANDS = {"qsub": qsub, "qstat": qstat, "qdel": qdel}
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
