#!/bin/bash -l
#PBS -S /bin/bash
#PBS -N hk-KEY-0
#PBS -l select=2:ncpus=128:ngpus=8:mpiprocs=1
#PBS -l place=scatter:excl
#PBS -l walltime=00:15:00
#PBS -q by-node
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
module use /soft/spack/base/0.7.1/install/modulefiles/Core
module load apptainer
PYTHON -m hpc_kit doctor --quick --folder /scratch/me/my-runs/a || exit 1
PYTHON -m hpc_kit.sites.pool 0 ARGUMENTS

# a task
OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 mpirun -n 4 --hostfile /scratch/me/my-runs/a/tasks/t/hosts.txt --map-by ppr:2:node:PE=1 --bind-to core -x PATH -x LD_LIBRARY_PATH -x HPC_KIT_ATTEMPT -x HPC_KIT_DEADLINE -x HPC_KIT_JOB -x OMP_NUM_THREADS -x PYTHONUNBUFFERED PYTHON -m hpc_kit task /scratch/me/my-runs/a/tasks/t
