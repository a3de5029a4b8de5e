"""From a site and resources to a Parsl configuration.

Tasks that fit into a node are packed: HighThroughputExecutor, a worker for each. Tasks of several nodes get whole
groups of them: MPIExecutor, which hands out the nodes of a block; the command lines over them are launch.py's,
because Parsl's prefixes know neither Open MPI nor containers.
"""

import os
import sys
from pathlib import Path

from parsl.addresses import address_by_interface
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, MPIExecutor
from parsl.providers.base import ExecutionProvider

from hpc_kit.sites.local import ProcessProvider
from hpc_kit.sites.policy import slots
from hpc_kit.sites.provider import BatchProvider
from hpc_kit.sites.script import pool_command
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site

UNFIT = "'{}[]*?\n"  # quoted by hand, filled in, or taken for a pattern by Parsl or pyzmq
HEARTBEAT_S, LOST_AFTER_S = 5, 30  # both ends of a connection notice within LOST_AFTER_S that the other is gone


def local_config(site: Site, resources: Resources, run_dir: Path) -> Config:
    """Return the configuration that runs one task a slot on this machine; Parsl's own files go to `run_dir`."""
    return _config(site, resources, ProcessProvider(), slots(site, resources), run_dir)


def batch_config(site: Site, resources: Resources, provider: BatchProvider, run_dir: Path, strategy: str) -> Config:
    """Return the configuration that runs tasks in blocks of `provider`; `strategy` "none": the caller asks for
    them."""
    workers = provider.plan.slots if resources.nodes > 1 else provider.plan.slots // provider.plan.nodes
    return _config(site, resources, provider, workers, run_dir, strategy)


def _config(
    site: Site, resources: Resources, provider: ExecutionProvider, workers: int, run_dir: Path, strategy: str = "none"
) -> Config:
    if found := sorted({*str(run_dir)} & {*UNFIT}):  # with a bracket or a star it would wait for its workers for ever
        raise InputError(f"{run_dir}: Parsl cannot work in a path with {' '.join(map(repr, found))}; choose another")
    local = site.scheduler == "local"
    common = {
        "label": site.name,
        "provider": provider,
        "address": "127.0.0.1" if local else site.interface and address_by_interface(site.interface),
        "launch_cmd": pool_command(resources),
        "heartbeat_period": HEARTBEAT_S,
        "heartbeat_threshold": LOST_AFTER_S,
        "block_error_handler": False,
        "encrypted": True,
    }
    if resources.nodes > 1:
        executor = MPIExecutor(max_workers_per_block=workers, **common)
    else:  # max_workers_per_node alone decides
        executor = HighThroughputExecutor(max_workers_per_node=workers, cores_per_worker=1e-3, **common)
    # Set here, because MPIExecutor wants text and both start it from a list.
    executor.interchange_launch_cmd = [sys.executable, "-m", "hpc_kit.sites.interchange", str(os.getpid())]
    return Config(
        executors=[executor],
        run_dir=str(run_dir),
        strategy=strategy,
        strategy_period=0.5 if local else min(5.0, site.poll_s),
        usage_tracking=0,
    )
