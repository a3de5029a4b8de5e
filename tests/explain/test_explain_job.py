"""Jobs of kind "explain" and the command: parts and tables hold what the explainer says, a restart keeps parts, and
what does not fit is told before anything runs."""

import csv
import json
import sys
import time

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from some_graphs import rattled

from hpc_kit import cli
from hpc_kit.explain.explainer import Explainer
from hpc_kit.explain.output import read_part
from hpc_kit.models import build_model
from hpc_kit.plan import make_plan
from hpc_kit.report.summary import summarize
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec import models as specs
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError, Preempted
from hpc_kit.spec.job import load_job
from hpc_kit.spec.site import load_site
from hpc_kit.task import run_task
from hpc_kit.train.checkpoint import save_checkpoint

JOB = """
name: maps
kind: explain
explain:
  models: [MODEL]
  input: INPUT
  methods: [cam, grad_cam, saliency, positions]
  piece: 5
  trust: {structures: 8, random: 2, draws: 1}
  gallery: {by: error, count: 2}
resources: {gpus_per_rank: 0, cpus_per_rank: 1}
"""


@pytest.fixture
def frames(tmp_path):
    """A file of ethanol, copper and SO2 with energies that are not the model's."""
    frames = [rattled(molecule("CH3CH2OH"), seed) for seed in range(10)]
    frames[3] = rattled(bulk("Cu", cubic=True), 3)
    for number, atoms in enumerate(frames):
        atoms.info["energy"] = float(number)
    frames[7] = molecule("SO2")
    ase.io.write(tmp_path / "m.extxyz", frames)
    return tmp_path / "m.extxyz"


@pytest.fixture
def job(tmp_path, energy_run, frames):
    path = tmp_path / "maps.yaml"
    path.write_text(JOB.replace("MODEL", str(energy_run.path)).replace("INPUT", str(frames)))
    return path


def planned(job, path, *overrides: str) -> TaskDir:
    file = load_job(str(job), overrides)
    run = create_run(path, make_plan(file), file.job, load_site("local"))
    return run.task(run.read_plan().tasks[0].id)


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys):
    """Return what calls the command in this process: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hpc_kit", "explain", "--workers", "0", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


def test_parts_and_tables_hold_what_the_explainer_says(job, tmp_path, energy_run, frames):
    task = planned(job, tmp_path / "run")
    run_task(task.path)
    methods = ("cam", "grad_cam", "saliency", "positions")
    found = Explainer.load(energy_run.path, methods=methods).explain(frames)
    assert found.maps["cam"].shape == (2, 8 * 9 + 4) and [id for id, _ in found.rejects] == ["m_000007"]
    parts = [read_part(path) for path in sorted(task.parts.glob("*.h5"))]
    assert [len(part.ids) for part in parts] == [5, 4] and sum((part.ids for part in parts), []) == found.ids
    for method in methods:
        values = np.concatenate([part.maps[method] for part in parts])
        np.testing.assert_allclose(values, found.maps[method].mean(0), rtol=1e-5, atol=1e-6)
    total = np.add.reduceat(found.maps["cam"], found.atom_ptr[:-1], axis=1)
    whole = total + sum(found.baseline.values()) + found.remainder["cam"]
    np.testing.assert_allclose(whole, found.prediction, rtol=1e-12)
    np.testing.assert_allclose(found.remainder["cam"], 0.0, atol=1e-4)  # in fp32

    rows = list(csv.DictReader((task.path / "attributions.csv").open()))
    assert len(rows) == len(found.z) and rows[0]["cam [eV]"] and rows[0]["model"] == "schnet"
    assert {row["role"] for row in rows[:9]} == {"CH3", "CH2", "OH", "H on C", "H on O"}
    assert {row["role"] for row in rows if row["id"] == "m_000003"} == {"Cu"}
    assert "positions [eV/Angstrom (length of the force)]" in rows[0]
    told = list(csv.DictReader((task.path / "structures.csv").open()))
    assert [row["id"] for row in told] == found.ids and float(told[2]["true [eV]"]) == 2.0
    assert float(told[0]["atom_references [eV]"]) == pytest.approx(found.baseline["atom_references"].mean(0)[0])


def test_metrics_gallery_and_trust(job, tmp_path, energy_run, frames):
    task = planned(job, tmp_path / "run")
    run_task(task.path)
    metrics = json.loads(task.metrics.read_text())
    (model,) = metrics["models"]
    assert (model["structures"], model["rejected"], model["seeds"], model["exact"]) == (9, 1, 2, True)
    found = Explainer.load(energy_run.path).explain(frames)
    error = np.abs(found.prediction.mean(0) - found.truth)
    assert model["mae"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert [entry["id"] for entry in metrics["gallery"]] == [found.ids[i] for i in np.argsort(-error)[:2]]
    for method in ("cam", "saliency"):
        trust = model["trust"][method]
        assert trust["structures"] == 8 and trust["agreement"]["pairs"] == 1
        assert trust["fidelity"]["remove"]["plus"]["random"] > 0 and trust["randomisation"]["passed"] in (True, False)
    assert summarize(task.run)["explained"][0]["models"][0]["label"] == "schnet"
    assert "holds S" in (task.path / "rejects.jsonl").read_text()


def test_finished_parts_are_kept_by_the_next_attempt(job, tmp_path, monkeypatch):
    task = planned(job, tmp_path / "run", "explain.gallery={count: 0}", "explain.trust=null")
    with monkeypatch.context() as late:
        late.setenv("HPC_KIT_DEADLINE", str(time.time()))
        with pytest.raises(Preempted, match="5 structures are explained"):
            run_task(task.path)
    first = next(task.parts.glob("*.h5"))
    before = first.stat().st_mtime_ns
    run_task(task.path)
    assert task.is_done() and first.stat().st_mtime_ns == before and len(list(task.parts.glob("*.h5"))) == 2


def test_two_models_beside_each_other_and_a_part_of_a_shard_set(job, tmp_path, energy_run):
    tasks = [energy_run.task(task.id) for task in energy_run.read_plan().tasks]
    dataset = tasks[0].read_task().work.dataset
    over = [f"explain.models={[str(task.path) for task in tasks]}", f"explain.input={dataset}", "explain.limit=6"]
    over += ["explain.gallery={by: identifiers, identifiers: [s9, s1], forms: []}", "explain.methods=[cam]"]
    task = planned(job, tmp_path / "run", *over)
    run_task(task.path)
    metrics = json.loads(task.metrics.read_text())
    assert [model["label"] for model in metrics["models"]] == ["schnet", "schnet-2"]
    assert [model["structures"] for model in metrics["models"]] == [6, 6]
    assert [entry["id"] for entry in metrics["gallery"]] == ["s9", "s1"]
    pair = metrics["between"]["cam"]["schnet and schnet-2"]
    assert pair["structures"] == 6 and -1 <= pair["spearman"] <= 1
    assert metrics["models"][0]["trust"]["cam"]["agreement"] is None
    over[3] = "explain.gallery={by: identifiers, identifiers: [s99]}"
    with pytest.raises(InputError, match="gallery.identifiers: s99: not among the structures explained"):
        run_task(planned(job, tmp_path / "other", *over).path)


def test_relu_and_limit_of_files(job, tmp_path):
    task = planned(job, tmp_path / "run", "explain.relu=true", "explain.limit=7", "explain.trust=null")
    run_task(task.path)
    metrics = json.loads(task.metrics.read_text())
    assert metrics["models"][0]["structures"] == 7 and metrics["models"][0]["remainder"] == {}
    assert min(read_part(path).maps["cam"].min() for path in task.parts.glob("*.h5")) == 0.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("explain.models=[gone]", "explain.models: .*gone: no such run, task or best.pt"),
        ("explain.input=gone", "explain.input: .*gone: no such file or folder"),
        ("explain.target=homo", "explain.target: .*best.pt was not trained on 'homo', but on energy"),
        ("explain.methods=[lime]", "explain.methods"),
        ("explain.methods=[cam, cam]", "names 'cam' twice"),
        ("explain.gallery={by: identifiers}", "by: identifiers and a list of identifiers belong together"),
        ("explain.gallery={by: identifiers, identifiers: [a, a]}", "names 'a' twice"),
        ("resources.ranks_per_node=2", "a job of kind 'explain' is one process"),
    ],
)
def test_job_that_cannot_be_done_is_refused_at_submission(job, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        planned(job, tmp_path / "run", override)


def test_same_weights_twice_are_refused(job, tmp_path, energy_run):
    one = energy_run.task(energy_run.read_plan().tasks[0].id)
    with pytest.raises(InputError, match="the same best.pt is named twice"):
        planned(job, tmp_path / "run", f"explain.models=[{energy_run.path}, {one.path}]")


OWN = """
import torch

class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(100, 1)
    def forward(self, data):
        return self.table(data.z).new_zeros(len(data.ptr) - 1, 1).index_add(0, data.batch, self.table(data.z))

class Parts(Whole):
    def embed(self, data):
        return self.table(data.z)
    def head(self, features, data):
        return features.new_zeros(len(data.ptr) - 1, 1).index_add(0, data.batch, features)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a maker of best.pt of own modules."""
    (tmp_path / "modules_to_explain.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "modules_to_explain", raising=False)

    def make(name: str):
        spec, graph = specs.Foreign(**{"import": f"modules_to_explain:{name}"}), Graph()
        torch.manual_seed(0)
        content = {
            "model": build_model(spec, graph).state_dict(),
            "scale": {"mean": [0.0], "std": [1.0], "per_atom": False, "atom_references": {}},
            "spec": spec.model_dump(),
            "graph": graph.model_dump(),
            "units": {"energy": "eV"},
            "forces": False,
            "elements": [1, 6, 8],
            "periodic": False,
            "dataset_sha256": "",
            "hpc_kit": "test",
            "epoch": 0,
            "score": 0.0,
        }
        save_checkpoint(tmp_path / f"{name}.pt", content)
        return tmp_path / f"{name}.pt", f"modules_to_explain:{name}"

    return make


def test_command_writes_a_folder_and_refuses_what_does_not_fit(explain, energy_run, own, tmp_path):
    ase.io.write(tmp_path / "water.extxyz", molecule("H2O"))
    ase.io.write(tmp_path / "so2.extxyz", molecule("SO2"))
    (whole, module), (parts, other) = own("Whole"), own("Parts")
    asked = {
        "gone: no such run, task or best.pt": ["gone", "water.extxyz"],
        "gone.cif: no such file": [energy_run.path, "gone.cif"],
        "was not trained on 'homo', but on energy": [energy_run.path, "water.extxyz", "--target", "homo"],
        "methods.0: Input should be 'cam', 'grad_cam', 'saliency' or 'positions'": [
            energy_run.path, "water.extxyz", "--method", "lime",
        ],
        "holds S, which the training never saw": [energy_run.path, "so2.extxyz"],
        "has no embed and no head, which this kind of work needs": [whole, "water.extxyz", "--module", module],
        "saliency needs what a model begins with": [
            parts, "water.extxyz", "--module", other, "--method", "saliency",
        ],
        "is code outside of hpc_kit. If you trust it, name it": [whole, "water.extxyz"],
        "--by: the structures drawn are those that --id names": [
            energy_run.path, "water.extxyz", "--id", "a", "--by", "error",
        ],
        "gallery.identifiers: nobody: not among": [energy_run.path, "water.extxyz", "--id", "nobody"],
        "--workers: must be at least 0 (got -1)": [energy_run.path, "water.extxyz", "--workers", "-1"],
        "gallery by error: the input states no true values": [energy_run.path, "water.extxyz", "--by", "error"],
    }  # fmt: skip
    for number, (message, arguments) in enumerate(asked.items()):
        code, out, errors = explain(*arguments, "--out", f"out{number}")
        assert code == 2 and out == "" and message in errors and len(errors.splitlines()) <= 2, errors

    assert explain(energy_run.path, "water.extxyz", "--id", "nobody", "--out", "done")[0] == 2
    assert (tmp_path / "done" / "parts").is_dir()
    code, out, errors = explain(parts, "water.extxyz", "--module", other, "--out", "done", "--trust")
    assert code == 0, errors
    assert "(one structure only)" in out and "random atoms)" not in out
    assert "cam: weight of an atom (1 is the average)" in out and "agreement over seeds: one model only" in out
    assert (tmp_path / "done" / "page.html").stat().st_size > 500_000
    assert "done/parts: exists; --force replaces it" in explain(energy_run.path, "water.extxyz", "--out", "done")[2]
    assert explain(energy_run.path, "water.extxyz", "--out", "done", "--force")[0] == 0
