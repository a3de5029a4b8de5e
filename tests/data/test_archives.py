"""Archives and folders that are not to be trusted: what would fill a disk or leads out of them is refused."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from hpc_kit.data.sources import archives, open_source
from hpc_kit.data.sources.archives import Bounds, members
from hpc_kit.data.split_file import read_split_file
from hpc_kit.data.structures import RejectedError
from hpc_kit.spec.errors import InputError

MEGABYTE = bytes(10**6)
SMALL = Bounds(most=10**6)


def pack(path, content: dict[str, bytes]):
    """Write a zip or a tar, compressed as its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


ENDINGS = ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_archive_is_read_within_its_bounds(tmp_path, ending):
    path = pack(
        tmp_path / ending, {"b/x.cif": b"1", "./y.cif": b"2", "._z.cif": b"", "c/.d/u.cif": b"", "v.txt": b""}
    )
    assert list(members(path, ".cif", SMALL)) == [("x.cif", b"1"), ("y.cif", b"2")]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["x.cif", "skipped.txt"])
def test_archive_that_unpacks_to_more_than_is_allowed_is_refused(tmp_path, ending, name):
    path = pack(tmp_path / ending, {name: MEGABYTE, "y.cif": MEGABYTE})
    if name == "skipped.txt" and ending == "a.zip":  # a member of a zip that is not asked for costs nothing
        assert len(list(members(path, ".cif", SMALL))) == 1
        return
    message = r"GB that unpack to 0.00\d+ GB or more, and 0.001 GB are allowed; .* say --option max_unpacked_gb=N"
    with pytest.raises(InputError, match=message) as caught:
        list(members(path, ".cif", SMALL))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(list(members(path, ".cif", Bounds(most=3 * 10**6)))) == (2 if name == "x.cif" else 1)


def test_default_allows_100_times_the_size_and_a_gigabyte_in_any_case(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    assert Bounds().of(path) == 10**9
    with path.open("r+b") as file:
        file.truncate(2 * 10**8)
    assert Bounds().of(path) == 2 * 10**10


def test_options_set_the_bounds():
    options = {"max_unpacked_gb": "2.5", "follow_links": "true"}
    assert archives.bounds(options) == Bounds(most=2_500_000_000, follow=True)
    for wrong in ("0", "-1", "nan", "inf", "much"):
        with pytest.raises(InputError, match=f"option max_unpacked_gb={wrong}: must be a number above 0"):
            archives.bounds({"max_unpacked_gb": wrong})


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["../x.cif", "/etc/x.cif", "a/../../x.cif"])
def test_name_that_leads_out_of_its_archive_is_refused(tmp_path, ending, name):
    with pytest.raises(InputError, match=f"holds '{name}', a name that leads out of it: pack it anew"):
        list(members(pack(tmp_path / ending, {name: b"1"}), ".cif"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_link_in_a_tar_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("x.cif")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="x.cif is a link or a device: pack the files themselves"):
        list(members(tmp_path / "a.tar", ".cif"))


# Sources that read archives pass the bound on


def test_jarvis_zip_beyond_its_bound_is_refused(tmp_path):
    path = pack(
        tmp_path / "d.zip", {"d.json": json.dumps([{"jid": "a", "atoms": {}, "ehull": 0}]).encode() + b" " * 9999}
    )
    with pytest.raises(InputError, match="unpack to 1.*e-05 GB or more, and 1e-06 GB are allowed"):
        open_source("jarvis", path, {"max_unpacked_gb": "1e-6"})


def test_npz_beyond_its_bound_is_refused(tmp_path):
    arrays = {"z": np.array([1, 1]), "R": np.zeros((999, 2, 3)), "E": np.zeros(999), "F": np.zeros((999, 2, 3))}
    np.savez_compressed(tmp_path / "h2.npz", **arrays)
    assert open_source("md17", tmp_path / "h2.npz", {}).molecule == "h2"
    with pytest.raises(InputError, match="h2.npz: .* GB are allowed"):
        open_source("md17", tmp_path / "h2.npz", {"max_unpacked_gb": "1e-5"})


def test_damaged_npz_is_named(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"z": np.array([1, 1]), "R": rng.random((999, 2, 3)), "E": np.zeros(999), "F": rng.random((999, 2, 3))}
    path = tmp_path / "h2.npz"
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    content[20_000:20_010] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(InputError, match="h2.npz: cannot be read to its end"):
        list(open_source("md17", path, {}).records())


@pytest.mark.parametrize("source", ["hmof", "qm9"])
def test_archives_of_files_beyond_their_bound_are_refused(tmp_path, source):
    (tmp_path / "t.csv").write_text("id,wc\na,1\n")
    path = pack(tmp_path / "a.zip", {"a.cif": MEGABYTE, "b.xyz": MEGABYTE})
    options = {"csv": "t.csv"} if source == "hmof" else {}
    with pytest.raises(InputError, match="a.zip: .* GB are allowed"):
        open_source(source, path, options | {"max_unpacked_gb": "1e-4"})


def test_split_file_that_is_no_file_of_ids_by_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_kit.data.split_file.MOST_BYTES", 10)
    path = pack(tmp_path / "s.zip", {"s.json": b'{"train": []}'})
    with pytest.raises(InputError, match="s.json unpacks to 1.3e-08 GB: no file of ids is so large"):
        read_split_file(path, "")


# Links


@pytest.fixture
def linked(tmp_path):
    """A folder with a file, a link to it, links out of the folder, to another folder and to nowhere."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    write(inside / "Cu.cif", bulk("Cu", cubic=True))
    write(outside / "Si.cif", bulk("Si", cubic=True))
    (inside / "again.cif").symlink_to("Cu.cif")
    (inside / "out.cif").symlink_to(outside / "Si.cif")
    (inside / "folder").symlink_to(outside)
    (inside / "gone.cif").symlink_to("nowhere.cif")
    (inside / "t.csv").write_text("id,wc\n" + "".join(f"{name},1\n" for name in ("Cu", "again", "out", "gone")))
    return inside


@pytest.mark.parametrize("source", ["hmof", "files"])
def test_links_that_lead_out_of_a_folder_are_rejected_by_name(linked, source):
    def read(**options):
        opened = open_source(source, linked, {"csv": "t.csv", **options})
        kept, rejected = set(), {}
        for id, raw in opened.records():
            try:
                opened.convert(id, raw)
                kept.add(id)
            except RejectedError as error:
                rejected[id] = str(error)
        return kept, rejected

    not_followed = {
        "folder": "a link to a folder, which is not followed: name that folder, or copy it",
        "gone": "a link that leads nowhere",
    }
    out = "a link that leads out of the folder: copy the file, or say --option follow_links=true"
    assert read() == ({"Cu", "again"}, not_followed | {"out": out})
    assert read(follow_links="true") == ({"Cu", "again", "out"}, not_followed)


def test_qm9_is_not_read_along_links_out_of_its_folder(tmp_path):
    (tmp_path / "qm9").mkdir()
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text("1\ngdb 1\nC 0 0 0\n")
    (tmp_path / "qm9" / "dsgdb9nsd_000001.xyz").symlink_to(tmp_path / "dsgdb9nsd_000001.xyz")
    with pytest.raises(InputError, match="dsgdb9nsd_000001.xyz: a link that leads out of the folder"):
        list(open_source("qm9", tmp_path / "qm9", {}).records())
    ((id, _),) = open_source("qm9", tmp_path / "qm9", {"follow_links": "true"}).records()
    assert id == "gdb_1"


# What is of the wrong kind


@pytest.mark.parametrize(
    ("source", "kind"), [("jarvis", "folder"), ("md17", "folder"), ("core_mof", "file"), ("files", "archive")]
)
def test_file_for_a_folder_and_a_folder_for_a_file_are_one_line(tmp_path, source, kind):
    path = {"folder": tmp_path, "file": tmp_path / "f", "archive": tmp_path / "a.zip"}[kind]
    if kind == "file":
        path.write_text("x")
    if kind == "archive":
        pack(path, {"a.cif": b"x"})
    with pytest.raises(InputError, match=f"^{path}: is an? {kind}[:;] .*") as caught:
        open_source(source, path, {})
    assert "\n" not in str(caught.value)
