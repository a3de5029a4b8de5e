#!/bin/bash
#COBALT -n 2
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
export HPC_KIT_BLOCK_TIME=900 HPC_KIT_BLOCK_BEGAN=/scratch/me/my-runs/a/blocks/hk-KEY-0.began
touch "$HPC_KIT_BLOCK_BEGAN"
export PBS_NODEFILE=$COBALT_NODEFILE
PYTHON -m hpc_kit doctor --quick --folder /scratch/me/my-runs/a || exit 1
PYTHON -m hpc_kit.sites.pool 0 ARGUMENTS

# a task
OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 HPC_KIT_NODE_LOCAL=/local/scratch mpirun -n 4 --hostfile /scratch/me/my-runs/a/tasks/t/hosts.txt --map-by ppr:2:node:PE=1 --bind-to core -x PATH -x LD_LIBRARY_PATH -x HPC_KIT_ATTEMPT -x HPC_KIT_DEADLINE -x HPC_KIT_JOB -x OMP_NUM_THREADS -x PYTHONUNBUFFERED -x HPC_KIT_NODE_LOCAL PYTHON -m hpc_kit task /scratch/me/my-runs/a/tasks/t
