"""Builds an image from its lock: wheelhouse, Apptainer, list of contents. Nothing is fetched while Apptainer runs.

Not for: what is in the image (spec/image.py) or whether it works (verify.py).
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_kit import machine
from hpc_kit.files import write_atomically
from hpc_kit.images.definition import definition
from hpc_kit.images.lock import Lock, load_lock, write_lock
from hpc_kit.images.sif import ImageFile, read_image
from hpc_kit.images.wheelhouse import commit_of, fill, own_wheel, write_requirements
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.image import Image, load_image

CHECKOUT = Path(__file__).resolve().parents[2]
EPOCH = "1735689600"  # what stands for the time of a reproducible build: 2025-01-01
# Every Apptainer reads gzip. Level 9, the default, makes an image 8 % smaller and takes four times as long.
COMPRESSION = "-comp gzip -Xcompression-level 3"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to build. base: a root file system to stand on instead of the recipe's docker reference, made with
    mmdebstrap where the folder is not there; sandbox: a folder instead of a SIF file."""

    wheelhouse: Path
    base: Path | None = None
    accept_unverified: bool = False
    reproducible: bool = False
    test: bool = True
    sandbox: bool = False


def build(recipe: Path, out: Path, options: Options, say: Say) -> ImageFile | None:
    """Build the image of `recipe` as `out` and return what it says of itself (None of a sandbox).

    Raises InputError where the recipe, its lock, the wheelhouse or the machine cannot give one, WorkError with
    Apptainer's last words where it fails.
    """
    image = load_image(recipe)
    lock = load_lock(recipe)
    if machine.read_text(recipe.with_suffix(".def")) != definition(image).strip():
        raise InputError(
            f"{recipe.with_suffix('.def')}: is not of what {recipe.name} says now; run: hpc_kit image lock"
        )
    if shutil.which("apptainer") is None:
        raise InputError("apptainer is not on PATH: install it, or build where it is")
    say(f"wheelhouse: {options.wheelhouse}")
    known = fill(image, lock, options.wheelhouse, options.accept_unverified)
    if known != lock:
        write_lock(recipe, known)
        say(f"hashes that were unverified are in {recipe.with_suffix('.lock')} now: commit it")
    arguments = _arguments(image, known, options, say)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = Path(scratch) / out.name
        _apptainer("build", *arguments, str(made), str(recipe.with_suffix(".def")), reproducible=options.reproducible)
        if options.sandbox:
            if out.exists():
                raise InputError(f"{out}: is there already")
            made.rename(out)
            return None
        _attach_contents(known, made, Path(scratch))
        out.with_name(f"{out.name}.json").unlink(missing_ok=True)
        os.replace(made, out)
    return read_image(out)


def _arguments(image: Image, lock: Lock, options: Options, say: Say) -> list[str]:
    """Lay out what the definition reads, and return the words that tell Apptainer of it."""
    wheelhouse = options.wheelhouse.resolve()
    write_requirements(lock, wheelhouse)
    write_atomically(wheelhouse / image.name / "image.lock", lock.text().encode())
    own = own_wheel(CHECKOUT, wheelhouse)
    told = {"lock": lock.sha256, "commit": commit_of(CHECKOUT), "own": str(own.parent.relative_to(wheelhouse))}
    if options.base is not None:
        _root_file_system(image, options.base, say)
        told |= {"bootstrap": "localimage", "from": str(options.base.resolve())}
    words = [word for name, value in told.items() for word in ("--build-arg", f"{name}={value}")]
    form = ["--sandbox"] if options.sandbox else ["--mksquashfs-args", COMPRESSION]
    kind = [*form, *([] if options.test else ["--notest"])]
    repeatable = ["--reproducible"] if options.reproducible and _knows("--reproducible") else []
    if options.reproducible and not repeatable:
        say("this Apptainer has no --reproducible: files will be the same, the label with the date will not")
    return [*kind, *repeatable, "--bind", f"{wheelhouse}:/mnt:ro", *words]


def _knows(option: str) -> bool:
    return option in subprocess.run(["apptainer", "build", "--help"], capture_output=True, text=True).stdout


def _root_file_system(image: Image, folder: Path, say: Say) -> None:
    """Make a root file system of Debian where `folder` is not there. Raises InputError, WorkError."""
    if folder.exists():
        return
    if shutil.which("mmdebstrap") is None:
        raise InputError(f"{folder}: is not there, and mmdebstrap is not on PATH to make it")
    say(f"root file system: {folder}")
    packages = ",".join(image.base.packages)
    with _scratch_beside(folder) as made:
        words = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={packages}", image.base.suite, str(made)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise WorkError(f"mmdebstrap: {done.stderr.strip()[-500:]}")
        shutil.rmtree(made / "dev")  # an unprivileged build can make no devices, and Apptainer brings its own
        for name in ("dev", "var/lib/apt/lists", "var/cache/apt"):
            shutil.rmtree(made / name, ignore_errors=True)
            (made / name).mkdir()
        for name in ("hosts", "resolv.conf", "localtime"):  # Apptainer binds the host's over them
            (made / "etc" / name).touch()
        made.rename(folder)


@contextlib.contextmanager
def _scratch_beside(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield scratch / "root"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _attach_contents(lock: Lock, image: Path, scratch: Path) -> None:
    """Add the list of all Python packages, with versions and hashes, to an image as CycloneDX JSON."""
    pins = scratch / "requirements.txt"
    pins.write_text("".join(f"{p.pin} --hash=sha256:{p.sha256}\n" for p in lock.packages))
    out = scratch / "contents.cdx.json"
    argv = [sys.executable, "-m", "cyclonedx_py", "requirements", str(pins), "--output-reproducible", "-o", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        missing = "No module named" in done.stderr
        raise (InputError if missing else WorkError)(
            "the list of contents is made by cyclonedx-bom: pip install 'hpc-kit[image]'"
            if missing
            else done.stderr[-500:]
        )
    if len(json.loads(out.read_text()).get("components", [])) != len(lock.packages):
        raise WorkError(f"{out.name}: does not list all {len(lock.packages)} packages")
    _apptainer("sif", "add", "--datatype", "9", "--sbomformat", "cyclonedx-json", str(image), str(out))


def _apptainer(*words: str, reproducible: bool = False) -> None:
    more = {"SOURCE_DATE_EPOCH": EPOCH} if reproducible else {}
    done = subprocess.run(["apptainer", *words], capture_output=True, text=True, env=os.environ | more)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise WorkError("\n".join([f"apptainer {words[0]} failed:", *said[-15:]]))
