"""Weights that training starts from: they fit, or the keys that do not are named."""

from pathlib import Path

import pytest
import torch
from conftest import SMALL, small_run
from some_graphs import stored_reference
from torch import nn

from hpc_kit.files import file_sha256
from hpc_kit.models import build_model
from hpc_kit.runs.records import read_lines
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import load_job
from hpc_kit.spec.models import ALIGNN, CGCNNMatrix, SchNet, TorchMDET
from hpc_kit.spec.train import Weights
from hpc_kit.task import run_task
from hpc_kit.train.pretrained import load_fitting, load_weights

SPEC = SchNet(hidden=16, filters=16, interactions=2, gaussians=10)


def stored(path, content) -> Weights:
    torch.save(content, path)
    return Weights(path=str(path), sha256=file_sha256(path))


@pytest.mark.parametrize("nested", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_state_dict_is_found_where_packages_put_it(tmp_path, nested):
    torch.manual_seed(1)
    source, model = build_model(SPEC, Graph()), build_model(SPEC, Graph())
    load_weights(model, SPEC, stored(tmp_path / "w.pt", nested(source.state_dict())))
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"interactions": 3}, "belongs to no part of this model: blocks.2."),
        ({"interactions": 1}, "is missing: blocks.1."),
        ({"hidden": 32}, "has another shape: embedding.weight [119, 32], here [119, 16]"),
    ],
)
def test_another_architecture_is_refused_with_its_keys_and_changes_nothing(tmp_path, other, message):
    model = build_model(SPEC, Graph())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = build_model(SPEC.model_copy(update=other), Graph()).state_dict()
    with pytest.raises(InputError) as error:
        load_weights(model, SPEC, stored(tmp_path / "w.pt", state))
    assert "is of another architecture than the job's model" in str(error.value)
    assert message in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


REFERENCES = Path(__file__).parent.parent / "references"
UPSTREAM = {
    "alignn": (
        ALIGNN(alignn_layers=2, gcn_layers=2, hidden=16, embedding=8, edge_bins=20, triplet_bins=10),
        Graph(cutoff=8.0, max_neighbors=12, rule="alignn"),
        "",
    ),
    "cgcnn": (
        CGCNNMatrix(atom_features=10, convolutions=3, hidden=14, hidden_layers=2),
        Graph(cutoff=3.2, max_neighbors=12),
        "",
    ),
    "torchmd_et": (TorchMDET(hidden=8, layers=2, heads=4, basis=6), Graph(cutoff=5.0), "0/"),
}


@pytest.mark.parametrize("package", UPSTREAM)
def test_checkpoint_of_the_models_own_package_is_taken(tmp_path, package):
    spec, graph, case = UPSTREAM[package]
    content, batch = stored_reference(REFERENCES / f"{package}.npz")
    weights = f"{case}weights/"
    state = {k.removeprefix(weights): torch.from_numpy(v) for k, v in content.items() if k.startswith(weights)}
    model = build_model(spec, graph)
    load_weights(model, spec, stored(tmp_path / "w.pt", {"state_dict": state, "epoch": 3}))
    if "table" in content:  # features of elements that the reference drew
        model.elements.copy_(torch.from_numpy(content["table"]))
    theirs = torch.from_numpy(content[f"{case}output"]).view(-1, 1)
    torch.testing.assert_close(model(batch).detach(), theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    wrong = build_model(spec.model_copy(update={"hidden": 2 * spec.hidden}), graph)
    with pytest.raises(InputError, match="is of another architecture than the job's model; has another shape: "):
        load_weights(wrong, spec, stored(tmp_path / "w.pt", state))


def test_missing_keys_are_counted():
    with pytest.raises(InputError, match=r"is missing: 0.weight, 0.bias, 1.weight, 1.bias and 2 more"):
        load_fitting(nn.Sequential(*(nn.Linear(1, 1) for _ in range(3))), {}, "x.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3)])
def test_file_without_weights_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="holds no state dict"):
        load_weights(build_model(SPEC, Graph()), SPEC, stored(tmp_path / "w.pt", content))


def test_file_that_changed_since_planning_is_refused(tmp_path):
    weights = stored(tmp_path / "w.pt", {})
    (tmp_path / "w.pt").write_bytes(b"another")
    with pytest.raises(InputError, match="is not the file this task was planned with"):
        load_weights(build_model(SPEC, Graph()), SPEC, weights)


def test_training_goes_on_from_the_best_weights_of_another_run(tmp_path):
    first = small_run(tmp_path / "first", "seeds=[0]", "train.epochs=8")
    first = first.task(first.read_plan().tasks[0].id)
    run_task(first.path)
    second = small_run(tmp_path / "second", "seeds=[0]", f"train.start_from={first.best}", "train.epochs=1")
    task = second.read_plan().tasks[0]
    assert task.work.train.start_from.sha256 == file_sha256(first.best)
    run_task(second.task(task.id).path)
    start, went_on = (read_lines(t.epochs)[0]["train_loss"] for t in (first, second.task(task.id)))
    assert went_on < 0.7 * start


def test_weights_that_are_not_there_are_refused_at_submission(tmp_path):
    with pytest.raises(InputError, match=r"train.start_from: .*none.pt: cannot be read: No such file"):
        small_run(tmp_path / "run", f"train.start_from={tmp_path}/none.pt")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("{name: physnet}", "name schnet; the job's: name physnet"),
        (
            "{name: schnet, hidden: 32, filters: 16, interactions: 2, gaussians: 10}",
            "hidden 16; the job's: hidden 32",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused_before_anything_is_queued(tmp_path, model, told):
    first = tmp_path / "best.pt"
    spec = load_job("quickstart", SMALL).job.model.model_dump()
    torch.save({"model": {}, "spec": spec}, first)
    with pytest.raises(InputError, match=f"train.start_from: .*best.pt: is of another architecture .*: {told}"):
        small_run(tmp_path / "second", f"model={model}", f"train.start_from={{path: {first}}}")


@pytest.mark.parametrize("content", [b"", b"root:x:0:0", b"PK"])
def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_queued(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match="train.start_from: .*w.pt: is no checkpoint: torch did not write it"):
        small_run(tmp_path / "run", f"train.start_from={{path: {tmp_path}/w.pt}}")


@pytest.mark.parametrize("place", [-1, 0, 1], ids=["cut off", "first half", "second half"])
def test_a_damaged_checkpoint_is_refused_before_anything_is_queued(tmp_path, place):
    torch.save({"model": {f"layer.{i}": torch.rand(500, 10) for i in range(2)}}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    if place < 0:
        del content[len(content) // 2 :]
    else:
        content[(2 * place + 1) * len(content) // 4] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match="train.start_from: .*w.pt: is damaged"):
        small_run(tmp_path / "run", f"train.start_from={{path: {tmp_path}/w.pt}}")
