#!/bin/bash -l
#SBATCH --job-name=hk-KEY-0
#SBATCH --output="/scratch/me/my runs/a/blocks/hk-KEY-0.out"
#SBATCH --open-mode=append
#SBATCH --partition=batch
#SBATCH --account=abcd-gpu
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=28
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
apptainer exec --rocm --bind '/scratch/me/my runs/a' --bind EMBEDDED/qm9_sample '/scratch/me/node cuda.sif' hpc_kit doctor --quick --folder '/scratch/me/my runs/a' || exit 1
PYTHON -m hpc_kit.sites.pool 0 ARGUMENTS

# a task
OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 NCCL_SOCKET_IFNAME=hsn srun --nodes=2 --ntasks=4 --ntasks-per-node=2 --cpus-per-task=1 --gpus-per-node=2 --nodelist=NODE1,NODE2 --mpi=none --export=ALL --kill-on-bad-exit=1 apptainer exec --rocm --bind '/scratch/me/my runs/a' --bind EMBEDDED/qm9_sample '/scratch/me/node cuda.sif' hpc_kit task '/scratch/me/my runs/a/tasks/t'
