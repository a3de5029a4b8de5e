"""The site file as a typed model: one machine, its scheduler, partitions, launcher, containers and what it charges.

Not for: whether a job fits there and what it costs (sites/policy.py).
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_kit.spec.document import Strict, read_extended
from hpc_kit.spec.models import Positive, PositiveFloat
from hpc_kit.spec.shipped import find_shipped, shipped_folder, user_path
from hpc_kit.spec.walltime import Duration, Walltime

NODE_LOCAL = "HPC_KIT_NODE_LOCAL"  # the variable that tells a task its site's node_local
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Text = Annotated[str, Field(min_length=1)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Term = Literal["nodes", "gpus", "cores", "memory_gb"]
Per = dict[Term, PositiveFloat]
OWN_SITES = Path("~/.config/hpc_kit/sites")


class Partition(Strict):
    """One partition (queue) of a scheduler: what a node holds, and what one job may ask for. `queue` is its name
    there, where that differs; "" asks for none.

    `factor` multiplies the charge. `whole_nodes`: nodes are not shared, and a job gets and pays all of each.
    `min_nodes`, `max_nodes` and `max_walltime` are of one job; `nodes` is how many exist, `max_running` how many jobs
    of a user may run at a time. `gpu_counts`: jobs ask for so many GPUs of one node, instead of for nodes. `per`
    replaces the site's terms of charge, `options` are added to the site's.
    """

    queue: Annotated[str, Field(pattern=r"^\S*$")] | None = None
    cores: Positive
    memory_gb: Positive
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu: str | None = None
    nodes: Positive | None = None
    min_nodes: Positive = 1
    max_nodes: Positive | None = None
    min_walltime: Duration | None = None
    max_walltime: Walltime
    max_running: Positive | None = None
    whole_nodes: bool = False
    gpu_counts: list[Positive] = []
    preemptible: bool = False
    factor: Annotated[float, Field(ge=0)] = 1.0
    per: Per | None = None
    options: list[Text] = []
    note: str | None = None


class Charge(Strict):
    """What an hour costs: the largest of used/amount over the terms of `per`, times the partition's factor, in
    `unit`. Delta: {gpus: 1, cores: 16, memory_gb: 62.5}; where nodes are charged: {nodes: 1}."""

    unit: str
    per: Per


class Container(Strict):
    """How an image is started: `command` is the program, `gpu` Apptainer's flag for the node's GPUs, `binds` are host
    paths to show inside, `environment` is set inside."""

    command: str = "apptainer"
    gpu: Literal["nv", "rocm"] | None = None
    binds: list[Text] = []
    environment: dict[Variable, Text] = {}


class Site(Strict):
    """One machine.

    `slots` (local site) is how many tasks run at a time; null: as many as its cores and GPUs hold. `node_local` is a
    folder on each node's own disk, where the ranks of a node share one copy of the data; $VARIABLES are filled in on
    the node. `launcher` starts ranks over several nodes. `options` are given to the scheduler as they stand, each
    an option of its command line, in every block; `setup` are shell lines at the top of a block's script, before
    anything is started. `max_blocks` is how many blocks of a run may be queued or running at a time. `interface` is
    the login node's network interface that compute nodes reach. `poll_s` is how often the scheduler is asked.
    `margin` is what a block gets beyond its tasks' walltime, to start and to end. `needs` are pieces of text that
    `options` must hold, with the reason. `paths` are folders that must be there. `mpi` and `architecture` are what
    images must be made for. `retired`: the day the machine was switched off.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str
    scheduler: Literal["local", "slurm", "pbs", "cobalt"]
    launcher: Literal["srun", "hydra", "pals", "openmpi"] | None = None
    account: Name | None = None
    account_hint: str | None = None
    partition: Name | None = None
    partitions: dict[Name, Partition] = {}
    charge: Charge | None = None
    options: list[Text] = []
    needs: dict[str, str] = {}
    setup: list[Text] = []
    environment: dict[Variable, str] = {}
    container: Container | None = None
    node_local: str | None = None
    paths: list[str] = []
    interface: str | None = None
    max_blocks: Positive = 4
    poll_s: PositiveFloat = 60.0
    margin: Duration = "00:05:00"
    slots: Positive | None = None
    retired: str | None = None
    mpi: Literal["mpich", "openmpi"] | None = None
    architecture: Literal["x86_64", "aarch64"] = "x86_64"

    @model_validator(mode="after")
    def _parts_fit(self) -> "Site":
        if self.scheduler != "local" and not self.partitions:
            raise ValueError(f"partitions: a site with scheduler {self.scheduler!r} needs at least one")
        if self.scheduler == "local" and (self.partitions or self.launcher):
            raise ValueError("scheduler 'local' has neither partitions nor a launcher")
        if self.partition is not None and self.partition not in self.partitions:
            raise ValueError(f"partition: {self.partition!r} is not one of {', '.join(self.partitions)}")
        return self


def load_site(name: str, account: str | None = None, partition: str | None = None) -> Site:
    """Read the site `name`: a path, one of the user's own in ~/.config/hpc_kit/sites, or one that ships.

    A file with `extends: NAME` holds only what differs from that site. `account` and `partition` win over the files.
    Raises InputError.
    """
    document = read_extended(_find(name), _find_below)
    for key, value in (("account", account), ("partition", partition)):
        if value is not None:
            document = document.with_value((key,), value, f"--{key} {value}")
    return document.check(Site)


def site_files() -> dict[str, Path]:
    """Return the site files there are by name, the user's own over those that ship."""
    own = sorted(user_path(OWN_SITES).glob("*.yaml"))
    shipped = sorted(shipped_folder("site_configs").glob("*.yaml"))
    return {file.stem: file for file in [*shipped, *own]}


def _find(name: str) -> Path:
    own = user_path(OWN_SITES) / f"{name}.yaml"
    return own if "/" not in name and os.path.isfile(own) else find_shipped("site_configs", name)


def _find_below(name: str, path: Path) -> Path:
    """Return the file that `extends: name` in `path` means; in a user's own delta.yaml, delta is what ships."""
    return find_shipped("site_configs", name) if name == path.stem else _find(name)
