"""Shard sets: what is written comes back, the same input gives the same bytes, damage is named."""

import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import ListSource

from hpc_kit.data.manifest import content_sha256, read_manifest
from hpc_kit.data.prepare import Settings, prepare
from hpc_kit.data.shards import (
    concatenate,
    pack,
    read_composition,
    read_ids,
    read_shard_set,
    read_targets,
    stores_forces,
)
from hpc_kit.data.structures import Structure
from hpc_kit.files import file_sha256
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.shipped import shipped_folder

SAMPLE = shipped_folder("embedded") / "qm9_sample"


def water(name: str, **targets: float) -> Structure:
    return Structure(
        id=name,
        z=np.array([8, 1, 1]),
        pos=np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]),
        targets=targets,
    )


def write(folder, *structures):
    return prepare(ListSource(list(structures), energy="eV"), folder, Settings(Graph(cutoff=2.0)), workers=0)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SAMPLE, tmp_path / "copy")


def test_structures_come_back(tmp_path):
    manifest = write(tmp_path, water("w1", energy=-1.5), water("w2"))
    arrays = read_shard_set(tmp_path, manifest)
    assert arrays.ids.tolist() == [b"w1", b"w2"]
    assert arrays.atom_ptr.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(arrays.pos[3:], water("w").pos.astype(np.float32))
    np.testing.assert_array_equal(arrays.targets["energy"], [-1.5, np.nan])
    assert arrays.edge_ptr.tolist() == [0, 6, 12]
    assert arrays.dst.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert manifest.edges_per_graph == [6, 6] and manifest.graph["cutoff"] == 2.0


def test_forces_and_smiles_that_only_some_have_are_kept(tmp_path):
    first, second = water("w1", energy=1.0), water("w2")
    first.forces, second.smiles = np.ones((3, 3)), "O"
    manifest = write(tmp_path, first, second)
    arrays = read_shard_set(tmp_path, manifest)
    np.testing.assert_array_equal(arrays.forces[:3], np.ones((3, 3)))
    assert np.isnan(arrays.forces[3:]).all()
    assert arrays.smiles.tolist() == [b"", b"O"]


def test_concatenated_parts_equal_what_is_packed_at_once():
    waters = [water("w1", energy=1.0), water("w22"), water("w3", energy=3.0)]
    whole = pack(waters, ["energy"], Graph(cutoff=2.0))
    parts = concatenate(
        [pack(waters[:1], ["energy"], Graph(cutoff=2.0)), pack(waters[1:], ["energy"], Graph(cutoff=2.0))]
    )
    for name in ("z", "pos", "atom_ptr", "ids", "edge_ptr", "src", "dst", "shift"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_same_input_gives_the_same_bytes(tmp_path):
    shas = {write(tmp_path / name, water("w1", energy=1.0)).sha256 for name in ("a", "b")}
    files = {file_sha256(tmp_path / name / "shard-00000.h5") for name in ("a", "b")}
    assert (len(shas), len(files)) == (1, 1)


def test_embedded_sample_is_4000_molecules_with_all_properties_in_4_megabytes():
    manifest = read_manifest(SAMPLE)
    arrays = read_shard_set(SAMPLE, manifest)
    assert manifest.graphs == len(set(arrays.ids.tolist())) == 4000
    assert len(manifest.targets) == 15
    assert all(np.isfinite(values).all() for values in arrays.targets.values())
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 4_000_000
    assert file_sha256(SAMPLE / "shard-00000.h5") == manifest.shards[0].sha256


def test_embedded_energies_are_qm9s_in_electronvolt():
    manifest = read_manifest(SAMPLE)
    arrays = read_shard_set(SAMPLE, manifest)
    gap = arrays.targets["lumo"] - arrays.targets["homo"] - arrays.targets["gap"]
    printed = 0.0001 * 27.2114  # QM9 prints each of the three to 0.0001 hartree
    assert np.abs(gap).max() < 1.01 * printed
    row = arrays.ids.tolist().index(b"gdb_62")  # NC(=O)C=O; QM9 says U0 -283.16874, HOMO -0.2533 hartree
    assert arrays.targets["u0"][row] == pytest.approx(-283.16874 * 27.21138602, abs=1e-5)
    assert arrays.targets["homo"][row] == pytest.approx(-0.2533 * 27.21138602, abs=1e-5)


def test_truncated_shard_is_named(copy):
    shard = copy / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-00000.h5: \d+ bytes where manifest.json says \d+: truncated"):
        read_shard_set(copy, read_manifest(copy))


def test_foreign_file_of_the_right_size_is_named(copy):
    shard = copy / "shard-00000.h5"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(InputError, match="shard-00000.h5: its sha256 is not the one in manifest.json"):
        read_shard_set(copy, read_manifest(copy))


@pytest.mark.parametrize(
    "reader",
    [
        read_shard_set,
        lambda folder, manifest: read_shard_set(folder, manifest, [0], [], names=False),
        read_composition,
        read_targets,
        lambda folder, manifest: read_ids(folder, manifest.shards),
        stores_forces,
    ],
)
def test_flipped_bit_is_found_by_every_reader(copy, reader):
    """The embedded set is of before the sums of single arrays: each reader falls back on the whole file."""
    shard = copy / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # beyond all arrays: HDF5 itself sees nothing
    shard.write_bytes(content)
    with pytest.raises(InputError, match="shard-00000.h5: its sha256 is not the one in manifest.json: altered"):
        reader(copy, read_manifest(copy))


def test_shard_that_is_mended_is_read_again_in_the_same_process(copy):
    shard, manifest = copy / "shard-00000.h5", read_manifest(copy)
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + b"?")
    with pytest.raises(InputError, match="sha256"):
        read_ids(copy, manifest.shards)
    shard.write_bytes(good)
    assert len(read_ids(copy, manifest.shards)) == 4000


@pytest.mark.parametrize(
    ("place", "reader"),
    [
        ("ids", lambda folder, manifest: read_ids(folder, manifest.shards)),
        ("targets/energy", read_targets),
    ],
)
def test_arrays_that_are_read_alone_have_their_own_sum(tmp_path, place, reader):
    """Streaming reads identifiers and targets of a whole set at its start, and not every byte of it."""
    manifest = write(tmp_path, water("w1", energy=1.0), water("w2"))
    reader(tmp_path, manifest)
    other = manifest.shards[0].model_copy(update={"arrays": manifest.shards[0].arrays | {place: "0" * 64}})
    with pytest.raises(InputError, match="shard-00000.h5: its sha256 is not"):
        reader(tmp_path, manifest.model_copy(update={"shards": [other]}))


def test_hdf5_file_without_the_arrays_is_named(copy):
    shard = copy / "shard-00000.h5"
    with h5py.File(shard, "w") as file:
        file.attrs["schema_version"] = 1
    fields = json.loads((copy / "manifest.json").read_text())
    fields["shards"][0] |= {"bytes": shard.stat().st_size, "sha256": file_sha256(shard)}
    fields["sha256"] = content_sha256(fields)
    (copy / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="not a readable shard"):
        read_shard_set(copy, read_manifest(copy))


def rewrite(copy, change) -> None:
    """Change the shard of a set and let the manifest agree, as somebody who hands out data sets can."""
    shard = copy / "shard-00000.h5"
    with h5py.File(shard, "r+") as file:
        change(file)
    fields = json.loads((copy / "manifest.json").read_text())
    fields["shards"][0] |= {"bytes": shard.stat().st_size, "sha256": file_sha256(shard)}
    fields["sha256"] = content_sha256(fields)
    (copy / "manifest.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("place", "shape", "right"),
    [
        ("atoms/pos", (10**12, 3), r"\(72215, 3\)"),
        ("graphs/cell", (4000, 3, 10**9), r"\(4000, 3, 3\)"),
        ("targets/zpve", (10**13,), r"\(4000,\)"),
        ("graphs/atom_ptr", (4000,), r"\(4001,\)"),
    ],
)
def test_array_that_claims_another_size_is_refused_before_it_is_read(copy, place, shape, right):
    """A file of a few bytes can claim terabytes of zeros."""

    def claim(file):
        del file[place]
        file.create_dataset(place, shape, "f4", chunks=True)

    rewrite(copy, claim)
    with pytest.raises(InputError, match=f"shard-00000.h5: {place} is of shape .* where manifest.json says {right}"):
        read_shard_set(copy, read_manifest(copy))


def test_target_that_is_called_like_an_array_is_read(tmp_path):
    manifest = prepare(ListSource([water("w", shift=2.0)], shift="eV"), tmp_path, Settings(None), workers=0)
    assert read_shard_set(tmp_path, manifest).targets["shift"].tolist() == [2.0]


def test_missing_shard_is_named(copy):
    (copy / "shard-00000.h5").unlink()
    with pytest.raises(InputError, match="shard-00000.h5: missing"):
        read_shard_set(copy, read_manifest(copy))


def test_altered_manifest_is_refused(copy):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"CC0"', '"GPL"'))
    with pytest.raises(InputError, match="altered"):
        read_manifest(copy)


def test_manifest_of_another_schema_is_refused(copy):
    fields = json.loads((copy / "manifest.json").read_text()) | {"schema_version": 99}
    (copy / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="schema version 99; this hpc_kit reads version 1"):
        read_manifest(copy)
