#!/bin/bash -l
#PBS -S /bin/bash
#PBS -N hk-KEY-0
#PBS -l select=1:ncpus=32:ngpus=4:mpiprocs=1
#PBS -l place=scatter:excl
#PBS -l walltime=00:15:00
#PBS -q preemptable
#PBS -A abcd-gpu
#PBS -j oe
#PBS -o /scratch/me/my-runs/a/blocks/hk-KEY-0.out
#PBS -r n
#PBS -l filesystems=home:eagle
#PBS -k doe

trap : TERM USR1 USR2
export HPC_KIT_JOB=$PBS_JOBID
export HPC_KIT_BLOCK_TIME=900 HPC_KIT_BLOCK_BEGAN=/scratch/me/my-runs/a/blocks/hk-KEY-0.began
touch "$HPC_KIT_BLOCK_BEGAN"
module use /soft/modulefiles
module load cray-mpich-abi
export TMPDIR=/tmp
PYTHON -m hpc_kit doctor --quick --folder /scratch/me/my-runs/a || exit 1
PYTHON -m hpc_kit.sites.pool 2 ARGUMENTS

# a task
OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 HPC_KIT_NODE_LOCAL=/local/scratch TMPDIR=/tmp PYTHON -m hpc_kit.sites.local_ranks 2 PYTHON -m hpc_kit task /scratch/me/my-runs/a/tasks/t
