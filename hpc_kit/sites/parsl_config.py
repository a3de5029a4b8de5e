"""From a site and resources to a Parsl configuration."""

import os
import shlex
import sys
from pathlib import Path

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput import executor as htex

from hpc_kit import machine
from hpc_kit.sites.local import ProcessProvider
from hpc_kit.sites.policy import slots
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site


def parsl_config(site: Site, resources: Resources, run_dir: Path) -> Config:
    """Return the configuration that runs one task a slot on `site`; Parsl's own files go to `run_dir`."""
    if any(character in str(run_dir) for character in "'{}\n"):
        raise InputError(f"{run_dir}: Parsl cannot work in a path with a quote, a brace or a line break")
    gpus, ranks = machine.visible_gpus() if resources.gpus_per_rank else [], resources.ranks_per_node
    python = shlex.quote(sys.executable)
    workers = htex.DEFAULT_LAUNCH_CMD.replace(
        "process_worker_pool.py", f"exec {python} -m parsl.executors.high_throughput.process_worker_pool"
    )
    for path in ("{cert_dir}", "{logdir}", "{logconf}"):
        workers = workers.replace(path, f"'{path}'")
    executor = HighThroughputExecutor(
        label="local",
        provider=ProcessProvider(),
        address="127.0.0.1",
        max_workers_per_node=slots(site, resources),
        cores_per_worker=1e-3,  # max_workers_per_node alone decides
        available_accelerators=[",".join(gpus[i : i + ranks]) for i in range(0, len(gpus) - ranks + 1, ranks)],
        launch_cmd=workers,
        interchange_launch_cmd=[sys.executable, "-m", "hpc_kit.sites.interchange", str(os.getpid())],
        heartbeat_period=5,
        heartbeat_threshold=30,
    )
    return Config(
        executors=[executor],
        run_dir=str(run_dir),
        strategy="none",
        strategy_period=0.5,  # the first block is started after one period
        usage_tracking=0,
    )
