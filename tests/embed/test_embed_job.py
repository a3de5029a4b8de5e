"""Jobs of kind "embed": features are those of the model, maps and tables are of the same structures, and what does
not fit is told."""

import csv
import json
import time
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase.build import molecule as built
from some_graphs import rattled

from hpc_kit.data.batches import GraphStore
from hpc_kit.embed.chemistry import drawing, fingerprints, molecule
from hpc_kit.embed.features import Embedder, read_features
from hpc_kit.embed.job import Umap, told_lines
from hpc_kit.embed.maps import distinct_rows, maps_of, pca, trust
from hpc_kit.models import build_model
from hpc_kit.plan import make_plan
from hpc_kit.predict.inputs import open_inputs
from hpc_kit.predict.predictor import BATCH, Predictor
from hpc_kit.report.summary import summarize
from hpc_kit.runs.create import create_run
from hpc_kit.runs.layout import TaskDir
from hpc_kit.spec.errors import InputError, Preempted
from hpc_kit.spec.job import load_job
from hpc_kit.spec.models import Foreign
from hpc_kit.spec.site import load_site
from hpc_kit.task import run_task

JOB = """
name: maps
kind: embed
embed:
  models: MODELS
  input: INPUT
  umap: null
  roughness: {distances: [euclidean, cosine], size: 12, subsets: 2}
resources: {gpus_per_rank: 0, cpus_per_rank: 1}
"""


@pytest.fixture
def job(tmp_path, energy_run):
    """A job on the shard set of the training, with each seed as a model."""
    tasks = [energy_run.task(task.id) for task in energy_run.read_plan().tasks]
    path = tmp_path / "maps.yaml"
    text = JOB.replace("MODELS", str([str(task.path) for task in tasks]))
    path.write_text(text.replace("INPUT", tasks[0].read_task().work.dataset))
    return path


def planned(job, path, *overrides: str) -> TaskDir:
    file = load_job(str(job), overrides)
    run = create_run(path, make_plan(file), file.job, load_site("local"))
    return run.task(run.read_plan().tasks[0].id)


def work_run(work) -> Path:
    return Path(work.models[0].weights[0].path).parent.parent.parent


def test_features_are_the_models_pooled_as_it_reads_out(job, tmp_path):
    task = planned(job, tmp_path / "run")
    run_task(task.path)
    work = task.read_task().work
    labels = [model.label for model in work.models]
    assert labels == ["schnet-energy", "schnet-energy-2"]
    predictor = Predictor.load(work.models[0].weights[0].path)
    predicted = predictor.predict(work.embed.input[0], forces=False)
    found = read_features(task.path / "features" / "schnet-energy.h5")
    assert found.ids == predicted.ids and found.features.shape == (24, 8)
    np.testing.assert_allclose(found.prediction["energy"], predicted["energy"], rtol=1e-5, atol=1e-4)
    store = GraphStore(predicted.arrays, ["energy"])
    with torch.no_grad():  # a structure at a time, whose atoms are summed: the readout of SchNet for energies
        alone = [predictor.members[0].model.embed(store.batch(np.array([i]))).sum(0).numpy() for i in range(24)]
    np.testing.assert_allclose(found.features, np.stack(alone), rtol=1e-4, atol=1e-5)
    other = read_features(task.path / "features" / "schnet-energy-2.h5")
    assert other.ids == found.ids and not np.allclose(other.features, found.features)

    metrics = json.loads(task.metrics.read_text())
    assert [model["width"] for model in metrics["models"]] == [8, 8]
    assert metrics["models"][0]["trustworthiness"].keys() == {"pca-2", "pca-3"}
    assert {(row["distance"], row["size"], row["n"]) for row in metrics["roughness"]} == {
        ("euclidean", 12, 24), ("cosine", 12, 24),
    }  # fmt: skip
    assert all(0 < row["rogi"] < 1 and row["rogi_sd"] is not None for row in metrics["roughness"])
    assert metrics["correlations"][0]["spearman"] is None  # two models
    rows = list(csv.DictReader((task.path / "maps.csv").open()))
    assert len(rows) == 48 and [row["id"] for row in rows[:24]] == found.ids
    split = json.loads(next((work_run(work) / "splits").glob("*.json")).read_text())
    home = {id: part for part in ("train", "val", "test") for id in split[part]}
    assert [row["part"] for row in rows[:24]] == [home.get(id, "") for id in found.ids]
    assert float(rows[0]["predicted energy [eV]"]) == pytest.approx(found.prediction["energy"][0], rel=1e-5)
    summary = summarize(task.run)["embedded"][0]
    assert any("too few that differ for a rank correlation" in line for line in told_lines(summary))


def test_features_of_a_model_are_kept_by_the_next_attempt(job, tmp_path, monkeypatch):
    task = planned(job, tmp_path / "run", "embed.roughness=null", "embed.limit=10")
    with monkeypatch.context() as late:
        late.setenv("HPC_KIT_DEADLINE", str(time.time()))
        with pytest.raises(Preempted, match="structures have features"):
            run_task(task.path)
    run_task(task.path)
    file = task.path / "features" / "schnet-energy.h5"
    before = file.stat().st_mtime_ns
    task.done.unlink()
    run_task(task.path)
    assert file.stat().st_mtime_ns == before and task.is_done()
    assert json.loads(task.metrics.read_text())["structures"] == 10


class Bare(torch.nn.Module):
    """A module of one's own that has no embed and no head."""

    def forward(self, data):
        return torch.zeros(len(data.ptr) - 1, 1)


def test_own_module_without_embed_is_told(energy_run):
    predictor = Predictor.load(energy_run.path)
    spec = Foreign(**{"import": "test_embed_job:Bare"})
    predictor.members[0].model = build_model(spec, predictor.graph)
    predictor.spec = spec
    embedder = Embedder(predictor, ["energy"], "readout", BATCH, False)
    atoms = rattled(built("CH3CH2OH"), 0)
    arrays = next(open_inputs([atoms], predictor.units, predictor.graph).load())[2]
    with pytest.raises(InputError, match="has no embed and no head, which this kind of work needs"):
        embedder.of_arrays(arrays, [], None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embed.models=[gone]", "embed.models: .*gone: no such run, task or best.pt"),
        ("embed.input=gone", "embed.input: .*gone: no such file or folder"),
        ("embed.target=homo", "embed.target: no model was trained on 'homo': .*best.pt was on energy"),
        ("embed.umap={neighbors: 30}", "neighbors: 30 neighbours of each structure, and there are 24 that differ"),
        ("embed.roughness.distances=[manhattan]", "embed.roughness.distances"),
        ("embed.roughness.distances=[cosine, cosine]", "names 'cosine' twice"),
        ("resources.ranks_per_node=2", "a job of kind 'embed' is one process"),
    ],
)
def test_job_that_cannot_be_done_is_refused_at_submission(job, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        planned(job, tmp_path / "run", override)


def test_structures_of_files_without_true_values(job, tmp_path):
    ase.io.write(tmp_path / "m.extxyz", [rattled(built("CH3CH2OH"), seed) for seed in range(6)])
    task = planned(job, tmp_path / "run", f"embed.input={tmp_path}/m.extxyz")
    with pytest.raises(InputError, match="the input states no true energy; roughness: null leaves it out"):
        run_task(task.path)
    task = planned(job, tmp_path / "other", f"embed.input={tmp_path}/m.extxyz", "embed.roughness=null")
    run_task(task.path)
    shown = json.loads((task.path / "map.json").read_text())
    assert shown["drawings"][0][0].count("OH") == 1 and len(shown["drawings"][0][2]) == 2 * 3
    with h5py.File(task.path / "features" / "schnet-energy.h5") as file:
        assert file["prediction/energy"].attrs["unit"] == "eV"
    found = read_features(task.path / "features" / "schnet-energy.h5")
    bits, rows = fingerprints(found)
    assert rows.tolist() == list(range(6)) and (bits == bits[0]).all() and bits.any()
    found.pbc[:] = True
    assert drawing(molecule(found, 0)) is None


def test_map_of_principal_components_and_duplicates():
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(60, 2)) @ generator.normal(size=(2, 8))
    found, shares = pca(plane)
    assert sum(shares[:2]) == pytest.approx(1.0) and trust(plane, found[:, :2]) == pytest.approx(1.0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(plane - plane.mean(0), axis=1))
    twice = np.concatenate([plane, plane[:5]])
    rows, place = distinct_rows(twice)
    assert rows.tolist() == list(range(60)) and place[60:].tolist() == [0, 1, 2, 3, 4]
    mapped = maps_of(twice, None)
    assert mapped.distinct == 60
    np.testing.assert_array_equal(mapped.coordinates["pca-2"][60:], mapped.coordinates["pca-2"][:5])
    with pytest.raises(InputError, match="15 neighbours of each structure, and there are 10 that differ"):
        maps_of(plane[:10], Umap())
    for asked in (None, Umap()):
        with pytest.raises(InputError, match="a map needs 3 structures that differ, and there are 1"):
            maps_of(np.ones((50, 4)), asked)


def test_umap_keeps_neighbours_and_puts_the_rest_into_the_map():
    generator = np.random.default_rng(0)
    groups = generator.normal(size=(3, 6)) * 8
    features = (groups[np.arange(180) % 3] + generator.normal(size=(180, 6))).astype(np.float32)
    mapped = maps_of(features, Umap(neighbors=10, dimensions=[2], fit=120))
    assert mapped.fitted == 120 and mapped.coordinates["umap-2"].shape == (180, 2)
    assert mapped.trustworthiness["umap-2"] > 0.8
    at = mapped.coordinates["umap-2"]
    centres = np.array([at[group::3].mean(axis=0) for group in range(3)])
    nearest = np.linalg.norm(at[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == np.arange(180) % 3).mean() > 0.97
