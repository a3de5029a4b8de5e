"""Reading image files: what is said of those that are not there, not images, or damaged."""

import json
import struct

import pytest

from hpc_kit.images.sif import image_sha256, read_image
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import image_file

HEADER = struct.Struct("<32s10s3s3s16s8q")
HEAD = HEADER.pack(b"#!", b"SIF_MAGIC\0", b"01", b"02", b"", 0, 0, 0, 3, 128, 0, 0, 0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_KIT_IMAGES", str(tmp_path / "images"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("node-cpu", r"^image node-cpu: is not built: 'hpc_kit image build node-cpu' writes .*/images/node-cpu.sif$"),
        ("node-cpo", r"^image node-cpo: not found here, nor as .*/images/node-cpo.sif, .* did you mean 'node-cpu'\?"),
        ("other/node.sif", r"^image .*/other/node.sif: no such file; an image is a path, or a name of"),
        ("images", r"^image .*/images: is no file; a job runs in a SIF file$"),
    ],
)
def test_image_that_is_not_there_is_named_with_what_to_do(here, name, message):
    with pytest.raises(InputError, match=message):
        read_image(image_file(name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no SIF file"),
        (b"x" * 4096, "is no SIF file"),
        (HEAD, "is damaged: its table of contents cannot be read"),
        (HEAD[:-32] + struct.pack("<q", -9) + HEAD[-24:], "is damaged: its table of contents cannot be read"),
    ],
)
def test_file_that_is_no_image_or_cut_off_is_refused(here, content, message):
    (here / "odd.sif").write_bytes(content)
    with pytest.raises(InputError, match=rf"odd.sif: {message}"):
        read_image(here / "odd.sif")


def test_hash_beside_an_image_is_believed_for_as_long_as_the_file_stays(here):
    file, note = here / "a.sif", here / "a.sif.json"
    file.write_bytes(b"one")
    first = image_sha256(file)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": "kept"}))
    assert image_sha256(file) == "kept"
    file.write_bytes(b"other")
    assert image_sha256(file) not in (first, "kept")
