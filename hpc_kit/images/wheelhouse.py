"""The wheelhouse: a folder that holds every wheel a lock names, each with its hash checked.

Filled once where there is a network; where it is full, an image is built without one.
"""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from hpc_kit.files import file_sha256, write_atomically
from hpc_kit.images.lock import UNVERIFIED, Lock, Locked, fetch_url
from hpc_kit.images.pip import pip, target
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.image import STAGES, Image

CACHE = Path("~/.cache/hpc_kit/wheelhouse")
AT_A_TIME = 20  # wheels that one call of pip fetches: so many are lost at most when it is ended


def fill(image: Image, lock: Lock, folder: Path, accept_unverified: bool = False) -> Lock:
    """Have every wheel of `lock` in `folder`, and return the lock with each hash known.

    Raises InputError where a wheel has another hash than the lock's or none is known and that is not accepted,
    WorkError where one cannot be fetched.
    """
    unknown = [package.pin for package in lock.packages if package.sha256 == UNVERIFIED]
    if unknown and not accept_unverified:
        raise InputError(
            f"{lock.image}: no hash is known of {', '.join(unknown)}: whoever locked it could not reach them;"
            " --accept-unverified takes what is there now and writes its hash into the lock"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for package in lock.packages:
        _check(folder / package.file, package)
    missing = [package for package in lock.packages if not (folder / package.file).exists()]
    by_index = [package for package in missing if package.url is None]
    for start in range(0, len(by_index), AT_A_TIME):
        _fetch(image, by_index[start : start + AT_A_TIME], folder)
    for package in missing:
        if package.url is not None:
            fetch_url(image, package.name, package.version, package.url, folder)
        if not (folder / package.file).exists():
            raise WorkError(f"{package.url or package.file}: cannot be fetched")
        _check(folder / package.file, package)
    seen = [
        package.model_copy(update={"sha256": file_sha256(folder / package.file)})
        if package.pin in unknown
        else package
        for package in lock.packages
    ]
    return lock.model_copy(update={"packages": seen})


def write_requirements(lock: Lock, folder: Path) -> None:
    """Write what each stage installs into folder/<image>/<stage>.txt, with hashes."""
    for stage in STAGES:
        text = "".join(f"{p.pin} --hash=sha256:{p.sha256}\n" for p in lock.packages if p.stage == stage)
        place = folder / lock.image / f"{stage}.txt"
        place.parent.mkdir(exist_ok=True)
        write_atomically(place, text.encode())


def own_wheel(checkout: Path, folder: Path) -> Path:
    """Return the wheel of this package in `folder`, made from the checkout unless it is there already.

    Raises InputError where this package does not run from a checkout, WorkError where the wheel cannot be made.
    """
    if not (checkout / "setup.cfg").exists():
        raise InputError("an image is built from a checkout of hpc_kit: this one is an installed package")
    place = folder / "own" / _content_sha256(checkout)[:16]
    found = sorted(place.glob("*.whl"))
    if not found:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            # a copy: setuptools leaves its build folders in the source
            source = Path(scratch) / "source"
            for file in _sources(checkout):
                copy = source / file.relative_to(checkout)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
            pip("wheel", "--no-deps", "--wheel-dir", scratch, str(source))
            made = next(Path(scratch).glob("*.whl"))
            made.rename(place / made.name)
        found = sorted(place.glob("*.whl"))
    return found[0]


def _content_sha256(checkout: Path) -> str:
    digest = hashlib.sha256()
    for file in _sources(checkout):
        digest.update(f"{file.relative_to(checkout)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(checkout: Path) -> list[Path]:
    """Return the files that the wheel is made of."""
    top = [checkout / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")]
    folders = ("hpc_kit", "containers", "jobs", "site_configs")
    inner = [file for name in folders for file in sorted((checkout / name).rglob("*")) if file.is_file()]
    return [*top, *(file for file in inner if "__pycache__" not in file.parts)]


def _check(file: Path, package: Locked) -> None:
    if file.exists() and package.sha256 != UNVERIFIED and (found := file_sha256(file)) != package.sha256:
        raise InputError(
            f"{file}: has sha256 {found} and the lock says {package.sha256}: it is not the wheel that was locked;"
            " remove it to have it fetched again"
        )


def _fetch(image: Image, packages: list[Locked], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = Path(scratch) / "wanted.txt"
        known = all(package.sha256 != UNVERIFIED for package in packages)
        hashes = [f" --hash=sha256:{package.sha256}" if known else "" for package in packages]
        wanted.write_text("".join(f"{p.pin}{h}\n" for p, h in zip(packages, hashes, strict=True)))
        pip("download", "--no-deps", *target(image), "--dest", scratch, "--requirement", str(wanted))
        for package in packages:
            got = Path(scratch) / package.file
            if not got.exists():
                raise WorkError(f"{package.pin}: the index gives another wheel than {package.file}")
            got.rename(folder / package.file)


def commit_of(checkout: Path) -> str:
    """Return the commit that is checked out, with "+changes" where files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain") else commit or "unknown"
