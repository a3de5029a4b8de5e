"""The script of a block: what it asks its scheduler for and how the worker pools on its nodes are started. Pure.

Not for: the command lines of tasks (launch.py).
"""

import shlex
import sys
from pathlib import Path

from hpc_kit.runs.process import JOB
from hpc_kit.sites.attempt import BLOCK_BEGAN, BLOCK_TIME
from hpc_kit.sites.policy import BlockPlan
from hpc_kit.sites.scheduler import Block, Scheduler
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site

JOB_IDS = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "cobalt": "COBALT_JOBID"}
# What Parsl's worker pool is called with. Parsl fills in the fields when its driver's side has started.
_POOL = (
    "{debug} {max_workers_per_node} -a {addresses} -p {prefetch_capacity} -c {cores_per_worker} -m {mem_per_worker}"
    " --poll {poll_period} --port={worker_port} --cert_dir '{cert_dir}' --logdir='{logdir}' --logconf='{logconf}'"
    " --block_id={{block_id}} --hb_period={heartbeat_period} {address_probe_timeout_string}"
    " --hb_threshold={heartbeat_threshold} --drain_period={drain_period} --cpu-affinity {cpu_affinity}"
    " {enable_mpi_mode} --mpi-launcher={mpi_launcher}"
)


def pool_command(resources: Resources, arguments: str = _POOL) -> str:
    """Return the shell line that starts the worker pool on a node, with Parsl's fields still to be filled in."""
    gpus = resources.gpus_per_rank * resources.ranks_per_node if resources.nodes == 1 else 0
    return f"{shlex.quote(sys.executable)} -m hpc_kit.sites.pool {gpus} {arguments}"


def make_block(site: Site, plan: BlockPlan, name: str, folder: Path) -> Block:
    """Return what one block asks for. Where PBS is asked for GPUs of one node, a chunk is a GPU and all lie
    together."""
    partition = site.partitions[plan.partition]
    gpus = [f"-l select={plan.gpus}", "-l place=pack"] if partition.gpu_counts and site.scheduler == "pbs" else []
    return Block(
        name=name,
        nodes=plan.nodes,
        ranks=1 if site.scheduler == "pbs" else plan.ranks,  # its list of nodes names each as often
        cores=plan.cores,
        gpus=plan.gpus,
        memory_gb=plan.memory_gb,
        whole_nodes=plan.whole_nodes,
        walltime_s=plan.walltime_s,
        partition=plan.partition if partition.queue is None else partition.queue,
        account=site.account,
        options=(*site.options, *partition.options, *gpus),
        log=folder / f"{name}.out",
    )


def on_each_node(site: Site, block: Block, command: str) -> str:
    """Return the shell line that runs `command` once on each node of a block. Pure.

    Slurm warns the steps of a job, and not its script: there one node has a step too.
    """
    words = ["bash", "-c", f"exec {command}"]
    if site.scheduler == "slurm":
        gpus = [f"--gpus-per-node={block.gpus}"] if block.gpus else []
        size = [f"--nodes={block.nodes}", f"--ntasks={block.nodes}", "--ntasks-per-node=1"]
        words = ["srun", *size, f"--cpus-per-task={block.cores}", *gpus, "--mpi=none", "--export=ALL", *words]
    elif block.nodes == 1:
        return command
    elif site.launcher == "openmpi":
        words = ["mpirun", "-n", str(block.nodes), "--map-by", "ppr:1:node", "--bind-to", "none", *words]
    else:
        words = ["mpiexec", "-n", str(block.nodes), "-ppn", "1", *words]
    return shlex.join(words)


def block_script(scheduler: Scheduler, site: Site, block: Block, command: str, check: str = "") -> str:
    """Return the script of a block that runs `command`, once `check` has found nothing wrong. Pure.

    Warnings of the scheduler are for `command`: the shell outlives them.
    """
    lines = [
        "#!/bin/bash -l" if site.setup else "#!/bin/bash",  # modules are there in a login shell
        *scheduler.header(block),
        "",
        "trap : TERM USR1 USR2",
        f"export {JOB}=${JOB_IDS[scheduler.name]}",
        f"export {BLOCK_TIME}={block.walltime_s} {BLOCK_BEGAN}={shlex.quote(str(block.log.with_suffix('.began')))}",
        f'touch "${BLOCK_BEGAN}"',
        *(["export PBS_NODEFILE=$COBALT_NODEFILE"] if scheduler.name == "cobalt" else []),
        *site.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in site.environment.items()),
        *([f"{check} || exit 1"] if check else []),
        command,
    ]
    return "\n".join(lines) + "\n"
