"""One table says which of how many processes this is, whatever started it."""

import pytest

from hpc_kit.ranks import LAUNCHERS, Ranks, expect_ranks, find_ranks
from hpc_kit.spec.errors import InputError

# As printed by each launcher on a machine (PALS: as its users report them), rank 3 of 8, rank 1 of 4 on its node.
SET = {
    "hpc_kit": {"HPC_KIT_RANK": "3", "HPC_KIT_SIZE": "8", "HPC_KIT_LOCAL_RANK": "1", "HPC_KIT_LOCAL_SIZE": "4"},
    "torchrun": {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "0"},
    "Open MPI": {
        "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_RANK": "3",
    },
    "PALS": {
        "PALS_RANKID": "3", "PMI_SIZE": "8", "PMI_RANK": "3", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "4",
    },
    "MPICH, Hydra": {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"},
    "srun": {
        "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2,4,2",
    },
}  # fmt: skip
# What srun sets for the daemons that mpiexec has it start on two nodes, and a batch script for all it starts.
DAEMON = {
    "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("around", [{}, DAEMON])
def test_every_launcher_is_understood_also_inside_srun(launcher, around):
    assert find_ranks(around | SET[launcher]) == Ranks(3, 8, 1, 4, launcher)


def test_without_a_launcher_a_process_is_alone():
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
    assert find_ranks({}) == find_ranks(batch_script) == Ranks(0, 1, 0, 1, "")


@pytest.mark.parametrize(
    ("text", "node", "tasks"),
    [("4", 0, 4), ("4(x3)", 2, 4), ("3,1", 1, 1), ("4(x2),3,2(x2)", 2, 3), ("4(x2),3", 1, 4)],
)
def test_slurms_list_of_tasks_a_node(text, node, tasks):
    around = SET["srun"] | {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node)}
    assert find_ranks(around).local_size == tasks


def test_lines_of_a_rank_are_told_apart():
    assert (Ranks().head, Ranks(2, 4, 2, 4, "srun").head) == ("", "rank 2: ")


def test_as_many_as_the_task_asks_for():
    assert expect_ranks(8, SET["srun"]).rank == 3 and expect_ranks(1, {}) == Ranks()


@pytest.mark.parametrize(
    ("environment", "asked", "message"),
    [
        ({}, 4, "asks for 4 ranks .* is rank 0 of 1: nothing tells it of any other. Either .* not started under"),
        (SET["srun"] | {"SLURM_STEP_NUM_TASKS": "1"}, 4, "srun says that it is the only one"),
        (SET["Open MPI"], 4, "asks for 4 ranks .* and Open MPI started 8: start as many, or change"),
        (SET["Open MPI"], 1, "asks for 1 rank "),
    ],
)
def test_another_number_is_refused_with_the_reason(environment, asked, message):
    with pytest.raises(InputError, match=message):
        expect_ranks(asked, environment)
