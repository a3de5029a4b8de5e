#!/bin/bash -l
#SBATCH --job-name=hk-KEY-0
#SBATCH --output="/scratch/me/my runs/a/blocks/hk-KEY-0.out"
#SBATCH --open-mode=append
#SBATCH --partition=batch
#SBATCH --account=abcd-gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=14
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=00:15:00
#SBATCH --no-requeue

trap : TERM USR1 USR2
export HPC_KIT_JOB=$SLURM_JOB_ID
export HPC_KIT_BLOCK_TIME=900 HPC_KIT_BLOCK_BEGAN='/scratch/me/my runs/a/blocks/hk-KEY-0.began'
touch "$HPC_KIT_BLOCK_BEGAN"
module load apptainer-enable-mpi apptainer-enable-gpu
export NCCL_SOCKET_IFNAME=hsn
PYTHON -m hpc_kit doctor --quick --folder '/scratch/me/my runs/a' || exit 1
srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=56 --gpus-per-node=8 --mpi=none --export=ALL bash -c 'exec PYTHON -m hpc_kit.sites.pool 2 ARGUMENTS'

# a task
OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 NCCL_SOCKET_IFNAME=hsn PYTHON -m hpc_kit.sites.local_ranks 2 PYTHON -m hpc_kit task '/scratch/me/my runs/a/tasks/t'
