#!/bin/bash
#SBATCH --job-name=hk-KEY-0
#SBATCH --output="/scratch/me/my runs/a/blocks/hk-KEY-0.out"
#SBATCH --open-mode=append
#SBATCH --partition=gpuA100x4
#SBATCH --account=abcd-gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-node=4
#SBATCH --mem=250G
#SBATCH --time=00:15:00
#SBATCH --no-requeue
#SBATCH --constraint=scratch

trap : TERM USR1 USR2
export HPC_KIT_JOB=$SLURM_JOB_ID
export HPC_KIT_BLOCK_TIME=900 HPC_KIT_BLOCK_BEGAN='/scratch/me/my runs/a/blocks/hk-KEY-0.began'
touch "$HPC_KIT_BLOCK_BEGAN"
export NCCL_SOCKET_IFNAME=hsn
export NCCL_CROSS_NIC=1
PYTHON -m hpc_kit doctor --quick --folder '/scratch/me/my runs/a' || exit 1
srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=4 --gpus-per-node=4 --mpi=none --export=ALL bash -c 'exec PYTHON -m hpc_kit.sites.pool 2 ARGUMENTS'

# a task
OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 HPC_KIT_NODE_LOCAL=/tmp NCCL_SOCKET_IFNAME=hsn NCCL_CROSS_NIC=1 PYTHON -m hpc_kit.sites.local_ranks 2 PYTHON -m hpc_kit task '/scratch/me/my runs/a/tasks/t'
