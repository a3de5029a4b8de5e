"""What a job may ask of a training beyond the plain one: each does what it says, and the records show it."""

import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from conftest import ListSource, run_small, small_run
from some_graphs import rattled

from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.structures import Structure
from hpc_kit.runs.records import read_lines
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.train import loop, measured

SGD = ("train.optimizer=sgd", "train.momentum=0", "train.learning_rate=1e-5")


def metrics(task) -> dict:
    return json.loads(task.metrics.read_text())


def test_several_targets_are_learned_at_once(tmp_path):
    task = run_small(tmp_path / "run", "data.target=[zpve, gap]", "train.learning_rate=5e-3")
    lines = read_lines(task.epochs)
    assert list(lines[0]["val_maes"]) == ["zpve", "gap"]
    std = metrics(task)["scale"]["std"]
    standardised = [lines[0]["val_maes"][name] / s for name, s in zip(("zpve", "gap"), std, strict=True)]
    assert lines[0]["val_mae"] == pytest.approx(np.mean(standardised))
    assert lines[-1]["val_mae"] < 0.8 * lines[0]["val_mae"]
    assert {name: t["unit"] for name, t in metrics(task)["targets"].items()} == {"zpve": "eV", "gap": "eV"}
    with h5py.File(task.predictions) as file:
        assert file["predictions/gap"].shape == file["targets/zpve"].shape == (40,)


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory) -> str:
    """Sixty frames of ethanol with energies and forces of ASE's EMT, as a shard set; returns the job's data."""
    folder = tmp_path_factory.mktemp("md") / "set"
    structures = []
    for number in range(60):
        atoms = rattled(molecule("CH3CH2OH"), number)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        structures.append(Structure(f"f{number}", atoms.numbers, atoms.positions, {"e": energy}, forces=forces))
    prepare(ListSource(structures, e="eV"), folder, Settings(Graph(cutoff=4.0)), workers=0)
    return f"data={{source: shards, path: {folder}, target: e, forces: true, graph: {{cutoff: 4.0}}}}"


def test_energies_and_forces_are_learned_together(tmp_path, trajectory):
    task = run_small(
        tmp_path / "run", trajectory, "train.epochs=12", "train.batch_size=8", "train.learning_rate=5e-3"
    )
    lines = read_lines(task.epochs)
    assert lines[-1]["val_force_mae"] < 0.7 * lines[0]["val_force_mae"]
    found = metrics(task)["targets"]["forces"]
    assert found["unit"] == "eV/Angstrom" and found["test_mae"] < 0.7 * found["baseline_mae"]
    with h5py.File(task.predictions) as file:
        residual = file["predictions/forces"][:] - file["targets/forces"][:]
        assert file["atom_ptr"][:].tolist() == [0, 9, 18, 27, 36, 45, 54]
        assert sorted(set(file["z"][:])) == [1, 6, 8]
    assert found["test_mae"] == pytest.approx(np.abs(residual).mean())


def test_forces_of_a_set_that_has_none_are_refused_at_submission(tmp_path):
    with pytest.raises(InputError, match=r"data.forces: .*qm9_sample holds no forces"):
        small_run(tmp_path / "run", "data.forces=true")


def test_moving_average_is_what_is_validated_and_kept(tmp_path):
    plain, averaged = (run_small(tmp_path / n, *SGD, *more) for n, more in (("a", []), ("b", ["train.ema=0.9"])))
    assert [x["train_loss"] for x in read_lines(plain.epochs)] == [
        x["train_loss"] for x in read_lines(averaged.epochs)
    ]
    assert [x["val_mae"] for x in read_lines(plain.epochs)] != [x["val_mae"] for x in read_lines(averaged.epochs)]
    last, best = (torch.load(path, weights_only=True) for path in (averaged.last, averaged.best))
    assert read_lines(averaged.epochs)[-1]["val_mae"] == best["score"]
    assert all(torch.equal(last["ema"][f"module.{key}"], value) for key, value in best["model"].items())
    assert any(not torch.equal(last["model"][key], value) for key, value in best["model"].items())


def test_lamb_learns(tmp_path):
    lines = read_lines(run_small(tmp_path / "run", "train.optimizer=lamb", "train.learning_rate=1e-2").epochs)
    assert lines[-1]["train_loss"] < 0.8 * lines[0]["train_loss"]


def test_plateau_lowers_the_rate_and_training_stops_early(tmp_path):
    rules = ("schedule=plateau", "plateau={patience: 1, factor: 0.1}", "early_stopping={patience: 4}")
    still = ("epochs=9", "learning_rate=1.0e-30")
    task = run_small(tmp_path / "run", *(f"train.{text}" for text in (*rules, *still)))
    rates = [line["learning_rate"] for line in read_lines(task.epochs)]
    assert rates == pytest.approx([1e-30, 1e-30, 1e-30, 1e-31, 1e-31], rel=1e-6)
    assert metrics(task)["epochs"] == 5 and metrics(task)["best_epoch"] == 0


def test_published_error_is_held_against_ours(tmp_path):
    task = run_small(tmp_path / "run", "data.reference_mae={zpve: 0.0017}")
    found = metrics(task)["targets"]["zpve"]
    assert found["mae_deviation"] == pytest.approx(found["test_mae"] / 0.0017 - 1)
    assert small_run(tmp_path / "other").read_plan().tasks[0].id == task.read_task().id


def test_atom_references_are_taken_off_and_put_back(tmp_path):
    task = run_small(tmp_path / "run", "data.target=u0", "train.atom_references=fit")
    found = metrics(task)
    assert found["targets"]["u0"]["test_mae"] < 0.01 * found["targets"]["u0"]["baseline_mae"]
    assert -1100 < found["scale"]["atom_references"]["C"] < -1000


@pytest.mark.slow
def test_compiled_model_trains_to_the_same_losses(tmp_path):
    plain, compiled = (
        run_small(tmp_path / str(c), f"train.compile={c}", "train.epochs=2") for c in ("false", "true")
    )
    losses = [[line["train_loss"] for line in read_lines(task.epochs)] for task in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_compiling_without_a_compiler_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"train.compile: torch.compile needs a compiler and none of g\+\+, clang"):
        run_small(tmp_path / "run", "train.compile=true")


SHORT_OF_MEMORY = """
import resource, torch, hpc_kit.train.loop
from pathlib import Path
from hpc_kit.task import run_task
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000,) * 2)
try:
    run_task(Path({path!r}))
except Exception as error:
    print(type(error).__name__, error)
"""

OWN = """
import torch
from torch_geometric.nn import SchNet

class Net(SchNet):
    def __init__(self, width):
        super().__init__(width, width, 2, 10, 5.0, interaction_graph=self.edges)
    def edges(self, pos, batch):
        return self.pairs, (pos[self.pairs[0]] - pos[self.pairs[1]]).norm(dim=1)
    def forward(self, data):
        self.pairs = data.edge_index
        return super().forward(data.z, data.pos, data.batch)

class Wrong(Net):
    def forward(self, data):
        return data.pos

class Spread(torch.nn.Module):
    # The logarithm of the variance along x: minus infinity for a molecule that lies along z.
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))
    def forward(self, data):
        spread = torch.stack([data.pos[data.batch == g, 0].var() for g in range(len(data.ptr) - 1)])
        return self.factor * torch.log(spread)

class Root(Spread):
    # The same under a root: for that molecule the loss is finite, its gradient is not.
    def forward(self, data):
        spread = torch.stack([data.pos[data.batch == g, 0].var() for g in range(len(data.ptr) - 1)])
        return (self.factor.square() * spread).sqrt()

def factory():
    return 3
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_module_of_the_users_own_trains(tmp_path, own_models):
    own = 'model={import: "own_models:Net", args: {width: 16}, readout: sum}'
    lines = read_lines(run_small(tmp_path / "run", own, "train.learning_rate=5e-3").epochs)
    assert lines[-1]["train_loss"] < 0.8 * lines[0]["train_loss"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            '{import: "own_models:Wrong", args: {width: 8}}',
            r"must return a tensor of shape \[16, 1\] .* returned shape",
        ),
        ('{import: "own_models:Net", args: {wide: 8}}', "cannot be made: TypeError: .*wide"),
        ('{import: "own_models:Gone"}', "cannot be made: AttributeError"),
        ('{import: "no_such_package:Net"}', "cannot be made: ModuleNotFoundError: No module named 'no_such_package'"),
        ('{import: "own_models:factory"}', "made a int, not a torch.nn.Module"),
    ],
)
def test_own_module_that_does_not_fit_is_named(tmp_path, own_models, model, message):
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", f"model={model}")


def test_out_of_memory_says_how_large_the_batch_was(tmp_path):
    """A real shortage: the process may hold no more than it does after loading torch, and a little."""
    run = small_run(tmp_path / "run", "train.batch_size=4000", "data.split.train=0.9", "model.hidden=512")
    task = run.task(run.read_plan().tasks[0].id)
    code = SHORT_OF_MEMORY.format(path=str(task.path))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "OutOfMemory epoch 0, batch 0: out of memory with 3600 graphs" in out.stdout, out.stdout + out.stderr
    assert "Lower train.batch_size, or set train.batch_atoms below" in out.stdout


def test_wandb_offline_gets_what_the_records_have(tmp_path):
    task = run_small(tmp_path / "run", "track={wandb: offline, project: tests}")
    (folder,) = (task.path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    for key in (
        b"val_mae",
        b"train_loss",
        b"graphs_per_s",
        b"targets",
        b"learning_rate",
        task.read_task().id.encode(),
    ):
        assert key in content, key
    assert task.read_task().id == run_small(tmp_path / "plain").read_task().id


@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_wandb_that_does_not_work_fails_nothing(tmp_path, monkeypatch, capsys, fault):
    (tmp_path / "wandb.py").write_text("def init(**_):\n    raise RuntimeError('no network')\nSettings = dict\n")
    if fault == "missing":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        monkeypatch.delitem(sys.modules, "wandb", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
    task = run_small(tmp_path / "run", "track={wandb: online}", "train.epochs=2")
    reason = {"missing": "ModuleNotFoundError", "broken": "RuntimeError: no network"}[fault]
    assert f"track.wandb: could not start ({reason}" in capsys.readouterr().out
    assert len(read_lines(task.epochs)) == 2 and task.is_done()


@pytest.fixture
def one_flat(tmp_path):
    """Thirty molecules of which only m7 has no extent along x: data of a job with batches of two."""
    molecules = [molecule("CO2" if number == 7 else "CH4") for number in range(30)]
    structures = [Structure(f"m{i}", m.numbers, m.positions, {"e": i % 3}) for i, m in enumerate(molecules)]
    prepare(ListSource(structures, e="eV"), tmp_path / "set", Settings(Graph(cutoff=3.0)), workers=0)

    def options(**parts: list[int]) -> list[str]:
        split = tmp_path / "split.json"
        split.write_text(json.dumps({part: [f"m{i}" for i in numbers] for part, numbers in parts.items()}))
        data = f"path: {tmp_path}/set, target: e, split: {{manifest: {split}}}, graph: {{cutoff: 3.0}}"
        return [f"data={{source: shards, {data}}}", "train={epochs: 2, batch_size: 2, learning_rate: 1e-3}"]

    return options


def test_graphs_of_a_bad_loss_are_named(tmp_path, own_models, one_flat):
    options = one_flat(train=[*range(28)], val=[28], test=[29])
    with pytest.raises(WorkError, match=r"epoch 0, batch \d+: the loss is (nan|inf); of its 2 graphs .* due to m7\."):
        run_small(tmp_path / "run", *options, 'model={import: "own_models:Spread"}')


@pytest.mark.parametrize("at_once", [("cpu",), ()], ids=["seen before the step", "seen later, as on a GPU"])
def test_gradient_that_is_not_finite_is_not_stepped_along_and_its_graphs_are_named(
    tmp_path, monkeypatch, own_models, one_flat, at_once
):
    monkeypatch.setattr(measured, "AT_ONCE", at_once)
    monkeypatch.setattr(loop, "in_seconds", {"00:00:01": 0.0}.get)
    options = one_flat(train=[*range(28)], val=[28], test=[29])
    options += ['model={import: "own_models:Root"}', "train.checkpoint_every=00:00:01", "train.accumulate=3"]
    message = r"epoch 0, batches (\d+) to \d+: the loss is finite and its gradient's norm is nan; of its 6 graphs it"
    kept = r"last.pt, where there is one, keeps what was before"
    with pytest.raises(WorkError, match=rf"{message} is due to m7\. {kept}") as error:
        run_small(tmp_path / "run", *options)
    batch = int(re.search(message, str(error.value)).group(1))
    (last,) = (tmp_path / "run" / "tasks").glob("*/last.pt")
    kept = torch.load(last, weights_only=True)
    assert kept["progress"]["batch"] == batch > 0
    assert all(value.isfinite().all() for value in kept["model"].values())


@pytest.mark.parametrize("part", ["val", "test"])
def test_graphs_for_which_nothing_finite_is_predicted_are_named(tmp_path, own_models, one_flat, part):
    parts = {"train": [*range(7), *range(8, 26)], "val": [28], "test": [29]}
    parts[part] += [7]
    with pytest.raises(WorkError, match=f"predicts no finite number for 1 of 2 graphs of the {part} part: m7"):
        run_small(tmp_path / "run", *one_flat(**parts), 'model={import: "own_models:Spread"}')
