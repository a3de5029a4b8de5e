"""From a job to tasks: the product of grid and seeds, and ids that depend on content alone."""

import pytest

from hpc_kit.plan import make_plan
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import load_job


def plan_of(tmp_path, text: str, *overrides: str):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return make_plan(load_job(str(path), overrides))


JOB = "name: j\ndata: {source: sample, target: zpve}\ntrain: {epochs: 5, batch_size: 64}\n"


def test_tasks_are_the_product_of_grid_and_seeds(tmp_path):
    grid = "grid:\n  data.target: [zpve, homo]\n  train.learning_rate: [1e-3, 1e-4]\nseeds: [0, 1, 2]\n"
    plan = plan_of(tmp_path, JOB + grid)
    assert len({task.id for task in plan.tasks}) == 12
    assert plan.tasks[3].label == "data.target=zpve train.learning_rate=0.0001 seed=0"
    assert plan.tasks[3].train.learning_rate == 1e-4


def test_id_does_not_depend_on_key_order_or_on_defaults_spelled_out(tmp_path):
    other = (
        "train: {accumulate: 1, batch_size: 64, weight_decay: 0, epochs: 5, optimizer: adam}\n"
        "model: {name: schnet, hidden: 128}\nseeds: [0]\n"
        "data: {target: zpve, split: {seed: 0}, source: sample}\nname: j\n"
    )
    assert plan_of(tmp_path, JOB).tasks[0].id == plan_of(tmp_path, other).tasks[0].id


def test_id_does_not_depend_on_resources(tmp_path):
    asked = plan_of(tmp_path, JOB, "resources.walltime=10:00:00", "resources.gpus_per_rank=0")
    assert asked.tasks[0].id == plan_of(tmp_path, JOB).tasks[0].id


@pytest.mark.parametrize("change", ["train.epochs=6", "data.target=homo", "data.split.seed=1", "model.hidden=64"])
def test_id_depends_on_content(tmp_path, change):
    assert plan_of(tmp_path, JOB, change).tasks[0].id != plan_of(tmp_path, JOB).tasks[0].id


def test_same_data_set_elsewhere_gives_the_same_id(tmp_path):
    from hpc_kit.spec.shipped import shipped_folder

    copy = tmp_path / "copy"
    copy.symlink_to(shipped_folder("embedded") / "qm9_sample")
    moved = plan_of(tmp_path, JOB.replace("source: sample", f"source: shards, path: {copy}"))
    assert moved.tasks[0].id == plan_of(tmp_path, JOB).tasks[0].id


def test_unknown_target_is_named_with_its_line_and_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"job.yaml:2: data.target: unknown target 'zpv'; did you mean 'zpve'"):
        plan_of(tmp_path, JOB.replace("zpve", "zpv"))


def test_unknown_target_in_a_grid_names_the_grid(tmp_path):
    with pytest.raises(InputError, match=r"grid data.target=hom: data.target: unknown target"):
        plan_of(tmp_path, JOB + "grid: {data.target: [zpve, hom]}\n")


def test_impossible_value_in_a_grid_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"job.yaml:4: grid train.epochs=0: train.epochs: must be at least 1"):
        plan_of(tmp_path, JOB + "grid: {train.epochs: [5, 0]}\n")


def test_grid_that_repeats_a_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="twice"):
        plan_of(tmp_path, JOB + "grid: {train.epochs: [5, 5]}\n")


def test_folder_without_a_shard_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="data.path: .*holds no manifest.json"):
        plan_of(tmp_path, JOB.replace("source: sample", f"source: shards, path: {tmp_path}"))
