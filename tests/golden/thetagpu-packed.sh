#!/bin/bash
#COBALT -n 1
#COBALT -q full-node
#COBALT -t 15
#COBALT -A abcd-gpu
#COBALT --jobname hk-KEY-0
#COBALT -O /scratch/me/my-runs/a/blocks/hk-KEY-0
#COBALT -o /scratch/me/my-runs/a/blocks/hk-KEY-0.out
#COBALT --attrs filesystems=home,grand
exec 2>&1

trap : TERM USR1 USR2
export HPC_KIT_JOB=$COBALT_JOBID
export HPC_KIT_BLOCK_END=$(( $(date +%s) + 900 ))
export PBS_NODEFILE=$COBALT_NODEFILE
PYTHON -m hpc_kit doctor --quick --folder /scratch/me/my-runs/a || exit 1
PYTHON -m hpc_kit.sites.pool 1 {debug} {max_workers_per_node} -a {addresses} -p {prefetch_capacity} -c {cores_per_worker} -m {mem_per_worker} --poll {poll_period} --port={worker_port} --cert_dir '{cert_dir}' --logdir='{logdir}' --logconf='{logconf}' --block_id={{block_id}} --hb_period={heartbeat_period} {address_probe_timeout_string} --hb_threshold={heartbeat_threshold} --drain_period={drain_period} --cpu-affinity {cpu_affinity} {enable_mpi_mode} --mpi-launcher={mpi_launcher}

# a task
OMP_NUM_THREADS=4 PYTHONUNBUFFERED=1 HPC_KIT_NODE_LOCAL=/local/scratch PYTHON -m hpc_kit task /scratch/me/my-runs/a/tasks/t
