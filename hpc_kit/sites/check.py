"""Whether a site can be used from here: commands, account, folders, network, image; `hpc_kit sites check`.

Not for: whether a job fits (policy.py).
"""

import os
import shutil
import sys
from pathlib import Path

import psutil

from hpc_kit.checks import Check
from hpc_kit.images.sif import misfits, read_image
from hpc_kit.sites.scheduler import SchedulerError, ask
from hpc_kit.sites.schedulers import scheduler_of
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.site import Site

COMMANDS = {
    "local": (),
    "slurm": ("sbatch", "squeue", "scancel", "srun"),
    "pbs": ("qsub", "qstat", "qselect", "qdel"),
    "cobalt": ("qsub", "qstat", "qdel"),
}
OF_ONE_NODE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (nothing is written there)
PROBE_WITHIN_S = 300.0


def check(site: Site, image: str | None = None, on_a_node: bool = False) -> list[Check]:
    """Return what was found; with `on_a_node` also what a compute node sees, which is waited for."""
    found = [_command(name) for name in COMMANDS[site.scheduler]]
    if site.retired:
        found.append(Check("site", "fail", f"switched off: {site.retired}", "choose another"))
    found += _account(site) if site.scheduler != "local" else []
    found += [_folder(path) for path in site.paths]
    found += _interface(site)
    found.append(_environment(site))
    if image is not None:
        found.append(_image(image, site))
    if on_a_node:
        found.append(_from_a_node(site, image))
    return found


def node_probe(site: Site, image: str | None) -> list[str]:
    """Return the command that looks at this environment, or at `image`, from a compute node of Slurm."""
    what = [sys.executable, "-c", "import hpc_kit"] if image is None else ["test", "-r", image]
    size = ["--nodes=1", "--ntasks=1", "--time=00:05:00", "--mpi=none"]
    account = [f"--account={site.account}"] if site.account else []
    partition = [f"--partition={site.partition}"] if site.partition else []
    return ["srun", *size, *account, *partition, *site.options, *what]


def _command(name: str) -> Check:
    where = shutil.which(name)
    return (
        Check(name, "pass", where)
        if where
        else Check(name, "fail", "not on PATH", "log in to the site, or load its module")
    )


def _account(site: Site) -> list[Check]:
    if site.charge is None and site.account is None:
        return []
    if site.account is None:
        hint = f" (like {site.account_hint})" if site.account_hint else ""
        return [
            Check("account", "fail", "none is named", f"--account NAME{hint}, or account: in a site file of your own")
        ]
    ask_for = getattr(scheduler_of(site, Path()), "accounts", None)
    known = ask_for() if ask_for else None
    if known is None:
        return [
            Check(
                "account",
                "warn",
                f"{site.account}; the scheduler tells no accounts",
                "a wrong one is refused by submit",
            )
        ]
    if site.account in known:
        return [Check("account", "pass", site.account)]
    return [Check("account", "fail", f"{site.account} is not yours", f"yours are: {', '.join(known) or 'none'}")]


def _folder(text: str) -> Check:
    path = Path(os.path.expandvars(text))
    if not path.is_dir():
        return Check(text, "fail", "no such folder here", "look for where the site keeps it now")
    free = shutil.disk_usage(path).free / 1e9
    if not os.access(path, os.W_OK):
        return Check(text, "warn", f"there, not writable; {free:.0f} GB free", "put runs where you may write")
    return Check(text, "pass", f"writable, {free:.0f} GB free")


def _interface(site: Site) -> list[Check]:
    if site.interface is None:
        return []
    there = psutil.net_if_addrs()
    if site.interface in there:
        return [Check("interface", "pass", f"{site.interface}: {there[site.interface][0].address}")]
    return [Check("interface", "fail", f"no {site.interface} here", f"set interface: to one of {', '.join(there)}")]


def _environment(site: Site) -> Check:
    folder = sys.prefix
    if site.scheduler != "local" and folder.startswith(OF_ONE_NODE):
        return Check(
            "environment", "warn", f"{folder}: compute nodes may not see it", "install on a shared file system"
        )
    return Check("environment", "pass", folder)


def _image(image: str, site: Site) -> Check:
    try:
        found = read_image(Path(image))
    except InputError as error:
        return Check("image", "fail", str(error), "build it, or give the path of a SIF file")
    if wrong := misfits(found, site, gpus=False):
        return Check("image", "fail", "; ".join(wrong), "choose another image")
    return Check("image", "pass", f"{image}, {Path(image).stat().st_size / 1e6:.0f} MB, {found.device}, {found.mpi}")


def _from_a_node(site: Site, image: str | None) -> Check:
    if site.scheduler != "slurm":
        return Check("from a node", "warn", "not looked at: this needs Slurm", "submit a small job")
    what = image or "this environment"
    try:
        done = ask(*node_probe(site, image), timeout=PROBE_WITHIN_S)
    except SchedulerError as error:
        return Check("from a node", "fail", str(error), "see whether the partition is busy")
    if done.returncode:
        return Check("from a node", "fail", done.stderr.strip()[-300:], f"put {what} where compute nodes see it")
    return Check("from a node", "pass", f"{what} is there")
