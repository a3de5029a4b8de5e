"""`model:` and `train:`: published defaults, and combinations that cannot work, each refused with a reason."""

import pytest

from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import load_job

JOB = "name: j\ndata: {source: sample, target: zpve}\nresources: {gpus_per_rank: 0}\n"


@pytest.fixture
def load(tmp_path):
    def load(*overrides: str):
        (tmp_path / "job.yaml").write_text(JOB)
        return load_job(str(tmp_path / "job.yaml"), overrides).job

    return load


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cgcnn", {"atom_features": 64, "convolutions": 3, "hidden": 128, "hidden_layers": 1}),
        ("schnet", {"hidden": 128, "filters": 128, "interactions": 6, "gaussians": 50}),
        ("physnet", {"hidden": 128, "basis": 64, "interactions": 5, "electrostatics": False}),
        ("torchmd_et", {"hidden": 256, "layers": 8, "heads": 8, "basis": 64}),
        ("alignn", {"alignn_layers": 4, "gcn_layers": 4, "hidden": 256, "edge_bins": 80, "triplet_bins": 40}),
    ],
)
def test_defaults_are_the_published_sizes(load, name, values):
    assert load(f"model={{name: {name}}}").model.model_dump().items() >= (values | {"name": name}).items()


def test_a_name_and_a_list_of_targets_are_the_same_thing(load):
    assert load().data == load("data.target=[zpve]").data
    assert load("data.target=[zpve, homo]").data.target == ["zpve", "homo"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.precision=fp16"], "train.precision fp16 needs a GPU .*on the CPU take bf16"),
        (["data.forces=true", "train.compile=true"], "torch compiles no second derivatives"),
        (["data.forces=true", "data.target=[zpve, homo]"], "with forces, target must be that one"),
        (["data.target=[zpve, zpve]"], "data: target must not name one twice"),
        (["data.target=[]"], r"data.target: must not be empty"),
        (["data.reference_mae={homo: 0.1}"], "names 'homo', which is not predicted"),
        (["model={name: cgcnn_matrix}"], "pads to data.graph.max_neighbors, which must be set"),
        (["model={name: alignn, gcn_layers: 5}"], "model.gcn_layers: must be at most 4"),
        (["train.plateau={patience: 3}"], "plateau has no effect without schedule: plateau"),
        (["train.huber_delta=2.0"], "huber_delta has no effect without loss: huber"),
        (["train.atom_references={Hx: 1.0}"], "'Hx' is no element"),
        (["train.atom_references=guess"], "must be fit, null, or element -> value"),
        (["train.ema=1.0"], "train.ema: must be less than 1"),
        (["model={import: my_module}"], r"model.import: must match"),
        (['model={import: "m:C", takes: jax}'], "model.takes: 'jax' is not allowed; allowed: pyg, dgl, dgl_lattice"),
        (["track={wandb: sometimes}"], "track.wandb: 'sometimes' is not allowed"),
    ],
)
def test_what_cannot_work_is_refused(load, options, message):
    with pytest.raises(InputError, match=message):
        load(*options)


def test_own_module_keeps_its_key_when_it_is_written_down(load):
    model = load('model={import: "pkg.nets:Net", args: {width: 3}}').model
    assert model.model_dump() == {"import": "pkg.nets:Net", "args": {"width": 3}, "takes": "pyg", "readout": "mean"}
    assert model.name == "pkg.nets:Net"
