"""A real Slurm of four nodes on one machine: slurmctld, slurmd's gpua001 to gpua004 with four stand-in GPUs each, and
slurmdbd over MariaDB for its accounting. Needs root on Debian or Ubuntu; docs/testbed.md tells how it differs from a
site.

By hand: `python tests/testbed/slurm.py up|down|status|kill-node N|revive-node N`.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when it is run by hand

from testbed.debian import install

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
NODES = [f"gpua00{i}" for i in range(1, 5)]
ACCOUNT = "test-delta-gpu"
USER = "hpcuser"
STATE = Path("/var/lib/hpc_kit-testbed")
CONF = """ClusterName=testbed
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd.%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
SlurmdLogFile={state}/%n.log
SlurmctldLogFile={state}/slurmctld.log
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
InactiveLimit=0
KillWait=5
OverTimeLimit=0
MinJobAge=3600
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={host}
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
NodeName=gpua[001-004] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17004] CPUs=16 Sockets=1 CoresPerSocket=16 \
ThreadsPerCore=1 RealMemory=16000 Gres=gpu:a100:4 State=UNKNOWN
PartitionName=gpuA100x4 Nodes=ALL Default=YES DefaultTime=00:30:00 MaxTime=48:00:00 State=UP PriorityTier=10
PartitionName=cpu Nodes=ALL DefaultTime=00:30:00 MaxTime=48:00:00 State=UP PriorityTier=10
PartitionName=cpu-preempt Nodes=ALL DefaultTime=00:30:00 MaxTime=48:00:00 State=UP PriorityTier=1 \
PreemptMode=REQUEUE GraceTime=10
PartitionName=gpuA100x4-preempt Nodes=ALL DefaultTime=00:30:00 MaxTime=48:00:00 State=UP PriorityTier=1 \
PreemptMode=REQUEUE GraceTime=10
PartitionName=cpu-cancel Nodes=ALL DefaultTime=00:30:00 MaxTime=48:00:00 State=UP PriorityTier=1 \
PreemptMode=CANCEL GraceTime=10
"""
DBD = """AuthType=auth/munge
DbdHost={host}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm_testbed
StoragePass={password}
StorageLoc=slurm_testbed
PidFile={state}/slurmdbd.pid
LogFile={state}/slurmdbd.log
"""
GRES = "NodeName=gpua[001-004] Name=gpu Type=a100 File=/dev/fakegpu[0-3]\n"


_AT_WORK = ("idle", "mixed", "allocated")


class Cluster:
    """The cluster; `up` may be called on one that is up."""

    def __init__(self) -> None:
        self._declared_dead: list[str] = []

    def up(self) -> None:
        """Install what is missing, start every daemon that does not run, and wait until all four nodes are idle."""
        install(("slurmctld", "slurmdbd", "munged", "mariadbd"), PACKAGES)
        STATE.mkdir(exist_ok=True)
        STATE.chmod(0o755)
        (STATE / "ctld").mkdir(exist_ok=True)
        for i in range(4):
            gpu = Path(f"/dev/fakegpu{i}")
            if not gpu.exists():
                os.mknod(
                    gpu, 0o666 | stat.S_IFCHR, os.makedev(1, 3)
                )  # like /dev/null: it counts, nothing computes on it
        with contextlib.suppress(subprocess.CalledProcessError):
            run("useradd", "--create-home", USER)
        host = socket.gethostname()
        etc = Path("/etc/slurm")
        etc.mkdir(exist_ok=True)
        (etc / "slurm.conf").write_text(CONF.format(host=host, state=STATE))
        (etc / "gres.conf").write_text(GRES)
        dbd = etc / "slurmdbd.conf"
        dbd.touch(mode=0o600)
        dbd.chmod(0o600)
        dbd.write_text(DBD.format(host=host, state=STATE, password="only-for-tests"))
        self._munge()
        self._database()
        self.start_accounting()
        _start("slurmctld", ["slurmctld"])
        for node in NODES:
            self._slurmd(node)
        _wait("four idle nodes", lambda: self._idle() == 4, 60)

    def down(self) -> None:
        """End every daemon and every job."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            run("scancel", "--user=root")
        for name in (*NODES, "slurmctld", "slurmdbd"):
            _end(STATE / f"{name}.pid")
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] in ("slurmstepd", "mariadbd") and _is_ours(process):
                process.kill()

    def kill_node(self, number: int) -> None:
        """Have node `number` (1 to 4) die: its daemon, its steps and all that they started, at once."""
        node = NODES[number - 1]
        own = [p for p in psutil.process_iter(["name", "cmdline"]) if _runs_on(p, node)]
        steps = [
            p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("slurmstepd") and _is_above(p, own)
        ]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none may report the others' end
            for process in (*steps, *own):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def revive_node(self, number: int) -> None:
        """Start a dead node again and wait until it takes jobs."""
        self._slurmd(NODES[number - 1])
        _wait("the node", lambda: self._idle() + self._busy() == 4, 60)

    def declare_dead(self, number: int) -> None:
        """Have Slurm take node `number` for dead at once; `clear` takes it back."""
        self._declared_dead.append(NODES[number - 1])
        run("scontrol", "update", f"NodeName={NODES[number - 1]}", "State=DOWN", "Reason=test")

    def shorten(self, job: str, seconds: int) -> None:
        """Have the time limit of a running job come `seconds` from now, to Slurm's precision of some seconds."""
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
        run("scontrol", "update", f"JobId={job}", f"EndTime={end}")

    def preempt(self, nodes: int = 4) -> str:
        """Submit a job of the higher partition that takes `nodes` whole nodes, and return its id."""
        size = [
            f"--nodes={nodes}",
            "--exclusive",
            "--partition=gpuA100x4",
            f"--account={ACCOUNT}",
            "--output=/dev/null",
        ]
        return run("sbatch", "--parsable", *size, "--job-name=urgent", "--wrap=sleep 600").strip()

    def wait(self, job: str, states: tuple[str, ...], seconds: float = 60.0) -> str:
        """Wait until squeue says one of `states` of a job, and return it."""
        return _wait(
            f"job {job} in {states}", lambda: next((s for s in [self.state(job)] if s in states), None), seconds
        )

    def state(self, job: str) -> str:
        return run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip()

    def clear(self) -> None:
        """Cancel all jobs and wait until every node is idle."""
        run("scancel", "--user=root")
        run("scancel", f"--user={USER}")
        for node in self._declared_dead:
            _wait(node, lambda node=node: _takes_back(node), 30)
        self._declared_dead = []
        for number, node in enumerate(NODES, 1):
            if not _lives(STATE / f"{node}.pid"):
                self.revive_node(number)
        _wait("four idle nodes", lambda: self._idle() == 4 and not run("squeue", "--noheader").strip(), 60)

    def jobs(self) -> list[str]:
        """Return the ids of all jobs in the queue but those whose processes are just being ended."""
        return run("squeue", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,CONFIGURING", "--format=%i").split()

    def start_accounting(self) -> None:
        _start("slurmdbd", ["slurmdbd"])
        manage = ("sacctmgr", "--immediate")
        _wait(
            "slurmdbd", lambda: subprocess.run([*manage, "show", "cluster"], capture_output=True).returncode == 0, 60
        )
        known = run(*manage, "--noheader", "--parsable2", "show", "associations", "format=account,user").split()
        for words in (
            ["cluster", "testbed"],
            ["account", ACCOUNT, "Cluster=testbed"],
            *(["user", user, f"Account={ACCOUNT}", f"DefaultAccount={ACCOUNT}"] for user in ("root", USER)),
        ):
            if f"{ACCOUNT}|{USER}" not in known:
                subprocess.run([*manage, "add", *words], capture_output=True, timeout=30)

    @contextlib.contextmanager
    def without_accounting(self) -> Iterator[None]:
        """Have sacct fail, as where a site keeps no accounts or its database is away."""
        _end(STATE / "slurmdbd.pid")
        try:
            yield
        finally:
            self.start_accounting()

    def _idle(self) -> int:
        return self._count("idle")

    def _busy(self) -> int:
        return self._count("mixed") + self._count("allocated")

    def _count(self, state: str) -> int:
        done = subprocess.run(["sinfo", "-h", "-p", "gpuA100x4", "-N", "-o", "%T"], capture_output=True, text=True)
        return done.stdout.split().count(state)

    def _slurmd(self, node: str) -> None:
        _start(node, ["slurmd", "-N", node])

    def _munge(self) -> None:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        if not any(p.info["name"] == "munged" for p in psutil.process_iter(["name"])):
            run("su", "-s", "/bin/sh", "munge", "-c", "/usr/sbin/munged")

    def _database(self) -> None:
        data, own = STATE / "mysql", pwd.getpwnam("mysql")
        if _lives(STATE / "mariadbd.pid"):
            return
        if not (data / "mysql").exists():
            run("mysql_install_db", f"--datadir={data}", "--user=mysql", "--skip-test-db")
        Path("/run/mysqld").mkdir(exist_ok=True)
        os.chown("/run/mysqld", own.pw_uid, own.pw_gid)
        with (STATE / "mariadbd.log").open("ab") as log:
            daemon = subprocess.Popen(
                [
                    "mariadbd",
                    f"--datadir={data}",
                    "--user=mysql",
                    "--skip-networking",
                    "--innodb-buffer-pool-size=64M",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (STATE / "mariadbd.pid").write_text(str(daemon.pid))
        admin = ("mysql", "--batch", "--execute")
        _wait("MariaDB", lambda: subprocess.run([*admin, "select 1"], capture_output=True).returncode == 0, 60)
        grant = "grant all on slurm_testbed.* to slurm_testbed@localhost identified by 'only-for-tests'"
        run(*admin, f"create database if not exists slurm_testbed; {grant}")


def run(*argv: str, timeout: float = 60.0) -> str:
    """Run a command to its end and return its output. Raises CalledProcessError with what it said."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
    return done.stdout


def _start(name: str, argv: list[str]) -> None:
    """Start a daemon that writes STATE/name.pid, unless it runs."""
    file = STATE / f"{name}.pid"
    if _lives(file):
        return
    file.unlink(missing_ok=True)
    run(*argv)
    try:
        _wait(name, lambda: _lives(file), 30)
    except TimeoutError as error:
        log = STATE / f"{name}.log"
        raise RuntimeError(f"{error}; its log ends:\n{log.read_text()[-2000:] if log.exists() else ''}") from None


def _lives(file: Path) -> bool:
    try:
        return psutil.Process(int(file.read_text())).status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return False


def _end(file: Path) -> None:
    if _lives(file):
        process = psutil.Process(int(file.read_text()))
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(20)
    file.unlink(missing_ok=True)


def _takes_back(node: str) -> bool:
    """Have Slurm use a node again, and tell whether it does; one that has come back by itself cannot be resumed."""
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True)
    return run("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T").split()[0] in _AT_WORK


def _is_ours(process: psutil.Process) -> bool:
    words = " ".join(process.info["cmdline"] or [])
    return str(STATE) in words or "slurmstepd" in words


def _runs_on(process: psutil.Process, node: str) -> bool:
    """Tell whether Slurm started a process, or one above it, on `node`: steps and scripts know it from their
    variables."""
    if process.pid == os.getpid():
        return False
    try:
        return process.environ().get("SLURMD_NODENAME") == node or f"-N {node}" in " ".join(
            process.info["cmdline"] or []
        )
    except psutil.Error:
        return False


def _is_above(process: psutil.Process, others: list[psutil.Process]) -> bool:
    try:
        return any(child in others for child in process.children())
    except psutil.NoSuchProcess:
        return False


def _wait(what: str, condition, seconds: float):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.2)
    return value


if __name__ == "__main__":
    cluster, words = Cluster(), sys.argv[1:]
    if words[:1] == ["status"]:
        print(run("sinfo"), run("squeue"), sep="\n")
    elif words[:1] in (["kill-node"], ["revive-node"]) and len(words) == 2:
        getattr(cluster, words[0].replace("-", "_"))(int(words[1]))
    elif words in (["up"], ["down"]):
        getattr(cluster, words[0])()
    else:
        sys.exit(__doc__)
