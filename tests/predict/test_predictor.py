"""From a checkpoint to numbers: those of the training's own test, and of structures from anywhere."""

import json
import os
import pickle
import shutil

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from conftest import run_small, small_run
from some_graphs import rattled

from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.sources import open_source
from hpc_kit.predict import inputs
from hpc_kit.predict.inputs import open_inputs
from hpc_kit.predict.predictor import Predictor, join
from hpc_kit.runs.layout import RunDir
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.task import run_task
from hpc_kit.train.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def task(energy_run):
    return energy_run.task(energy_run.read_plan().tasks[0].id)


def members(run: RunDir) -> list:
    return [run.task(task.id) for task in run.read_plan().tasks]


def test_numbers_of_the_training_test_come_out_again(energy_run):
    for one in members(energy_run):
        found = Predictor.load(one.path).predict(one.read_task().work.dataset)
        with h5py.File(one.predictions) as file:
            ids, values, forces = file["ids"][:], file["predictions/energy"][:], file["predictions/forces"][:]
        place = [found.ids.index(id.decode()) for id in ids]
        np.testing.assert_allclose(found["energy"][place], values, rtol=1e-6)
        spans = [np.arange(found.atom_ptr[p], found.atom_ptr[p + 1]) for p in place]
        np.testing.assert_allclose(found.forces[np.concatenate(spans)], forces, atol=1e-5)


def test_what_the_file_says_of_its_training_is_loaded(task):
    found = Predictor.load(task.best)
    manifest = json.loads((task.home.parent / "set" / "manifest.json").read_text())
    assert found.units == {"energy": "eV"} and found.graph == Graph(cutoff=4.0) and found.forces
    assert found.dataset_sha256 == manifest["sha256"] and found.elements == manifest["elements"] == [1, 6, 7, 8, 29]
    assert found.members[0].scale.describe() == json.loads(task.metrics.read_text())["scale"]


def test_a_run_is_the_ensemble_of_its_seeds(energy_run):
    whole = Predictor.load(energy_run.path).predict(molecule("H2O"))
    single = [Predictor.load(one.best).predict(molecule("H2O")) for one in members(energy_run)]
    assert single[0]["energy"] != single[1]["energy"] and single[0].std is None
    for name, of_one in (("values", "std"), ("forces", "forces_std")):
        each = np.stack([getattr(found, name) for found in single])
        np.testing.assert_allclose(getattr(whole, name), each.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(getattr(whole, of_one), each.std(axis=0, ddof=1), rtol=1e-4, atol=1e-7)


def test_atoms_files_and_shards_give_the_same_numbers(tmp_path, task):
    atoms = [rattled(molecule("CH3CH2OH"), 1), rattled(bulk("Cu", cubic=True), 2)]
    (tmp_path / "files").mkdir()
    for name, one in zip("ab", atoms, strict=True):
        ase.io.write(tmp_path / "files" / f"{name}.xyz", one, format="extxyz")
    prepare(open_source("files", tmp_path / "files", {}), tmp_path / "set", Settings(Graph(cutoff=3.0)), workers=0)
    predictor = Predictor.load(task.path)
    given, files, shards = (predictor.predict(of) for of in (atoms, tmp_path / "files", tmp_path / "set"))
    assert files.ids == shards.ids == ["a", "b"]
    np.testing.assert_allclose(files.values, given.values, rtol=1e-6)
    np.testing.assert_allclose(shards.values, given.values, rtol=1e-6)
    np.testing.assert_allclose(shards.forces, given.forces, atol=1e-5)


def test_pieces_and_processes_change_nothing(tmp_path, task, monkeypatch):
    monkeypatch.setattr(inputs, "PATIENCE_S", 1e-9)  # the first piece is read here, the others by a process
    ase.io.write(tmp_path / "many.extxyz", [rattled(molecule("NH3"), seed) for seed in range(20)])
    predictor = Predictor.load(task.path)
    whole = predictor.predict(tmp_path / "many.extxyz")
    pieces = open_inputs(tmp_path / "many.extxyz", predictor.units, predictor.graph, size=6)
    parts = list(predictor.each(pieces, workers=1))
    joined = join(parts, predictor.units)
    assert [len(part) for part in parts] == [6, 6, 6, 2] and joined.ids == whole.ids
    np.testing.assert_allclose(joined.values, whole.values, rtol=1e-6)
    np.testing.assert_allclose(joined.forces, whole.forces, atol=1e-5)


def test_true_values_are_taken_from_what_the_input_carries(tmp_path, task):
    known = rattled(molecule("H2O"), 1)
    known.info["energy"] = -3.5
    found = Predictor.load(task.path).predict([known, molecule("NH3")])
    assert found.truth[0, 0] == -3.5 and np.isnan(found.truth[1, 0])


BAD = {
    "nan": (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "a position or cell vector is NaN or infinite"),
    "nothing": (Atoms(), "no atoms"),
    "on top": (Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), "atoms 0 and 1 are 0.01 Angstrom apart"),
    "alone": (Atoms("H"), "no atom has a neighbour within the cutoff"),
    "unseen": (molecule("SO2"), "holds S, which the training never saw; --allow-unseen"),
    "flat cell": (Atoms("Cu", cell=[1, 1, 0], pbc=True), "periodic, with a cell of no volume"),
}


@pytest.mark.parametrize("kind", BAD)
def test_structure_that_cannot_be_used_is_refused_with_the_reason(task, kind):
    atoms, reason = BAD[kind]
    predictor = Predictor.load(task.path)
    with pytest.raises(InputError, match=reason):
        predictor.predict(atoms)
    found = predictor.predict([molecule("H2O"), atoms, molecule("NH3")])
    assert found.ids == ["0", "2"] and [id for id, _ in found.rejects] == ["1"] and reason in found.rejects[0][1]


def test_unseen_elements_are_marked_where_they_are_allowed(task):
    found = Predictor.load(task.path).predict([molecule("H2O"), molecule("SO2")], allow_unseen=True)
    assert found.unseen == ["", "S"] and len(found) == 2


def test_crystal_is_refused_by_a_model_of_molecules_and_forces_by_one_of_no_energy(tmp_path):
    predictor = Predictor.load(run_small(tmp_path / "run", "train.epochs=1").path)
    with pytest.raises(InputError, match="0: is periodic, and the model was trained on molecules"):
        predictor.predict(Atoms("CO", [[0, 0, 0], [1.2, 0, 0]], cell=[4, 4, 4], pbc=True))
    with pytest.raises(InputError, match="forces: the model predicts zpve and was not trained on forces"):
        predictor.predict(molecule("H2O"), forces=True)


def test_element_without_features_is_refused_even_if_unseen_ones_are_allowed(tmp_path):
    run = run_small(tmp_path / "run", "model={name: cgcnn, atom_features: 8, hidden: 8}", "train.epochs=1")
    with pytest.raises(InputError, match="holds Og, for which the model cgcnn has no element features"):
        Predictor.load(run.path).predict(Atoms("OgH", [[0, 0, 0], [1.5, 0, 0]]), allow_unseen=True)


def test_input_that_holds_nothing_is_refused(tmp_path, task):
    predictor = Predictor.load(task.path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.extxyz").write_text("")
    for given, message in (
        ([], "there is no structure"),
        (tmp_path / "empty", "empty: holds no structures"),
        (tmp_path / "none.extxyz", "none: cannot be read to its end: the file is empty"),
        (tmp_path / "gone.cif", "gone.cif: no such file"),
        ([tmp_path / "empty", task.read_task().work.dataset], "a shard set is predicted on alone"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.predict(given)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def altered(path, **changes):
    save_checkpoint(path, load_checkpoint(path) | changes)


SPOILED = {
    "of another package": (lambda p: torch.save({"state_dict": {}}, p), "is no whole checkpoint of hpc_kit"),
    "no checkpoint": (lambda p: p.write_bytes(b"x" * 300), "is no whole checkpoint of hpc_kit"),
    "damaged": (lambda p: p.write_bytes(p.read_bytes().replace(b"energy", b"enemy.")), "is damaged"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:500]), "is no whole checkpoint"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps(Harmful())), "is no whole checkpoint"),
    "a pickle inside": (lambda p: save_checkpoint(p, {"model": Harmful()}), "nothing in it was run"),
    "of an older hpc_kit": (lambda p: altered(p, units=None), "holds no units: it was written by an older hpc_kit"),
    "a last.pt": (lambda p: shutil.copy(p.with_name("last.pt"), p), "is no best.pt of hpc_kit"),
    "an unknown model": (lambda p: altered(p, spec={"name": "none"}), "does not describe a model of this hpc_kit"),
    "wrong weights": (lambda p: altered(p, model={}), "is missing: embedding.weight"),
    "wrong scale": (lambda p: altered(p, scale={"mean": [], "std": []}), "does not describe a model"),
    "code": (
        lambda p: altered(p, spec={"import": "os:system", "args": {"command": "mkdir harm-was-done"}}),
        "its model is the module os:system, which is code outside of hpc_kit. If you trust it, name it: --module",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_file_that_is_no_whole_best_pt_is_refused_in_one_line(tmp_path, monkeypatch, task, kind):
    monkeypatch.chdir(tmp_path)
    for name in ("best.pt", "last.pt"):
        shutil.copy(task.path / name, tmp_path / name)
    spoil, message = SPOILED[kind]
    spoil(tmp_path / "best.pt")
    with pytest.raises(InputError, match=message) as error:
        Predictor.load(tmp_path / "best.pt")
    assert "best.pt" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "harm-was-done").exists()


def test_what_is_no_trained_model_is_refused(tmp_path, task):
    unfinished = small_run(tmp_path / "run", "seeds=[0]")
    several = small_run(tmp_path / "grid", "seeds=[0]", "grid={train.batch_size: [8, 16]}")
    for path, message in (
        (tmp_path / "gone", "gone: no such run, task or best.pt"),
        (tmp_path, "is neither a run nor a task directory"),
        (unfinished.path, "none of its 1 tasks is done"),
        (members(unfinished)[0].path, "holds no best.pt: its training has not validated once"),
        (several.path, r"holds 2 different models \(train.batch_size=8, train.batch_size=16\); name one task"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor.load(path)


def test_unfinished_seeds_are_left_out_and_said_so(tmp_path):
    run = small_run(tmp_path / "run", "seeds=[0, 1]", "train.epochs=1")
    run_task(members(run)[0].path)
    predictor = Predictor.load(run.path)
    assert len(predictor.members) == 1 and "1 of its 2 tasks are done" in predictor.notes[0]
