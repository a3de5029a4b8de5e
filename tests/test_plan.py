"""From a job to tasks: the product of grid and seeds, and ids that depend on content alone."""

import json

import numpy as np
import pytest
from conftest import ListSource

from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.structures import Structure
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
    assert plan.tasks[3].work.train.learning_rate == 1e-4


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


@pytest.mark.parametrize(
    "change", ["train.epochs=6", "data.target=homo", "data.split.seed=1", "model={name: schnet, hidden: 64}"]
)
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


def test_grid_over_models_whose_keys_differ_says_how_to_vary_whole_models(tmp_path):
    job = JOB + "model: {name: schnet, gaussians: 25}\ngrid: {model.name: [schnet, physnet]}\n"
    wanted = r"job.yaml:4: model.gaussians: unknown key.*in the grid's cell model.name=physnet; .*vary whole ones"
    with pytest.raises(InputError, match=wanted):
        plan_of(tmp_path, job)


def test_grid_over_the_names_of_models_takes_each_model_as_it_is_by_default(tmp_path):
    plan = plan_of(tmp_path, JOB + "grid: {model.name: [schnet, physnet]}\n")
    assert [task.work.model.name for task in plan.tasks] == ["schnet", "physnet"]


def test_grid_over_whole_models_names_them_in_the_labels(tmp_path):
    plan = plan_of(tmp_path, JOB + "grid: {model: [{name: schnet, hidden: 32}, {name: physnet}]}\n")
    labels = ["model={name: schnet, hidden: 32} seed=0", "model={name: physnet} seed=0"]
    assert [task.label for task in plan.tasks] == labels


def test_grid_that_repeats_a_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="twice"):
        plan_of(tmp_path, JOB + "grid: {train.epochs: [5, 5]}\n")


def own_set(folder, *energies: float) -> str:
    """Prepare molecules whose energies are these, and return a job that trains on the energy."""
    atoms = {"z": np.array([1, 1]), "pos": np.array([[0.0, 0, 0], [0, 0, 0.74]])}
    known = [{} if np.isnan(energy) else {"energy": energy} for energy in energies]
    structures = [Structure(id=f"m{i}", targets=targets | {"n": 1.0}, **atoms) for i, targets in enumerate(known)]
    prepare(ListSource(structures, energy="eV", n=""), folder, Settings(None), workers=0)
    return f"name: j\ndata: {{source: shards, path: {folder}, target: energy}}\n"


def test_target_that_no_structure_has_is_refused_before_anything_is_queued(tmp_path):
    with pytest.raises(InputError, match=r"job.yaml:2: data.target: no structure .* a value of 'energy'; allowed: n"):
        plan_of(tmp_path, own_set(tmp_path / "set", *[np.nan] * 12))


def test_set_without_targets_is_refused_before_anything_is_queued(tmp_path):
    structures = [Structure("m", np.array([1, 1]), np.eye(2, 3), {})]
    prepare(ListSource(structures), tmp_path / "set", Settings(None), workers=0)
    with pytest.raises(InputError, match="job.yaml:2: data.target: this data set holds no targets"):
        plan_of(tmp_path, f"name: j\ndata: {{source: shards, path: {tmp_path}/set, target: energy}}\n")


def test_part_that_stays_empty_is_refused_before_anything_is_queued(tmp_path):
    job = own_set(tmp_path / "set", *[1.0] * 9, *[np.nan] * 20)
    with pytest.raises(
        InputError, match="job.yaml:2: data.split: .* 29 graphs, 9 of them with the target, .* to val"
    ):
        plan_of(tmp_path, job)
    assert plan_of(tmp_path, job, "data.target=n", "seeds=[0, 1]").tasks[1].seed == 1


def test_folder_without_a_shard_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="data.path: .*holds no manifest.json"):
        plan_of(tmp_path, JOB.replace("source: sample", f"source: shards, path: {tmp_path}"))


MEMBERS = {"train": ["gdb_8", "gdb_3"], "val": ["gdb_11"], "test": ["gdb_62"]}


def split_job(folder, content) -> str:
    """Write a split file and return a job that names it."""
    folder.mkdir(exist_ok=True)
    (folder / "split.json").write_text(json.dumps(content))
    return JOB.replace("target: zpve", f"target: zpve, split: {{manifest: {folder}/split.json}}")


def test_id_depends_on_the_content_of_a_split_file_not_on_its_path(tmp_path):
    here, there = (plan_of(tmp_path, split_job(tmp_path / name, MEMBERS)).tasks[0] for name in ("a", "b"))
    other = plan_of(tmp_path, split_job(tmp_path / "a", MEMBERS | {"test": ["gdb_63"]})).tasks[0]
    assert here.work.data.split.manifest != there.work.data.split.manifest
    assert here.id == there.id != other.id


def test_split_file_is_found_from_another_folder_once_planned(tmp_path, monkeypatch):
    split_job(tmp_path, MEMBERS)
    monkeypatch.chdir(tmp_path)
    task = plan_of(tmp_path, JOB, "data.split={manifest: split.json}").tasks[0]
    assert task.work.data.split.manifest == str(tmp_path / "split.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MEMBERS | {"dataset_sha256": "f" * 64}, "split.json: is a split of another data set"),
        (MEMBERS | {"test": ["gdb_3"]}, "split.json: ids that stand twice: 1 .gdb_3; gdb_3 in train and in test"),
        ({"train": ["gdb_8"]}, "split.json: has no val and no test; it must hold train, val and test"),
    ],
)
def test_wrong_split_file_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"job.yaml:2: data.split.manifest: \S*{message}"):
        plan_of(tmp_path, split_job(tmp_path, content))


def test_missing_split_file_is_named_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"--set .*: data.split.manifest: /nowhere.json: no such file"):
        plan_of(tmp_path, JOB, "data.split={manifest: /nowhere.json}")


def test_unknown_published_split_is_named(tmp_path):
    with pytest.raises(InputError, match="data.split.published: the data set carries no published split"):
        plan_of(tmp_path, JOB, "data.split={published: leaderboard}")


def test_counts_beyond_the_data_set_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"data.split: train \+ val \+ test is 4001; the data set has 4000 graphs"):
        plan_of(tmp_path, JOB, "data.split={train: 4000, val: 1, test: 0}")


def test_grid_over_folds_gives_a_task_a_fold(tmp_path):
    grid = "grid: {data.split.fold: [0, 1, 2]}\n"
    plan = plan_of(tmp_path, JOB + grid, "data.split={folds: 3, fold: 0}")
    assert [task.work.data.split.fold for task in plan.tasks] == [0, 1, 2]


def test_forces_of_what_is_no_energy_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"data.forces: are minus the gradient of an energy in eV, and alpha is in "):
        plan_of(tmp_path, JOB, "data.target=alpha", "data.forces=true")


@pytest.mark.parametrize(("model", "notes"), [("cgcnn", 1), ("alignn", 1), ("schnet", 0)])
def test_models_that_are_not_meant_for_forces_are_noted(tmp_path, model, notes):
    plan = plan_of(tmp_path, JOB, f"model={{name: {model}}}", "seeds=[0, 1]")
    assert plan.notes == []
    with_forces = [
        task.model_copy(
            update={"work": task.work.model_copy(update={"data": task.work.data.model_copy(update={"forces": True})})}
        )
        for task in plan.tasks
    ]
    found = plan.model_copy(update={"tasks": with_forces}).notes
    assert len(found) == notes and all(f"model {model} is not meant for forces" in note for note in found)
