"""The lock of a recipe: every package of an image in the order it goes in, with its exact version, wheel and sha256.

Not for: fetching the wheels (wheelhouse.py).
"""

import base64
import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpc_kit.files import file_sha256, write_atomically
from hpc_kit.images.compatibility import problems
from hpc_kit.images.pip import pip, target
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.image import Image, load_image, wanted, wheel_name

SCHEMA = 1
UNVERIFIED = "unverified"


class Locked(BaseModel):
    """One package: the wheel `file` from `url`, or where that is None from the index that pip is set up for.
    `sha256` is "unverified" where nobody has seen the wheel yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    stage: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+!-]+\.whl$")]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64}|unverified)$")]
    url: str | None = None

    @property
    def pin(self) -> str:
        """The package as pip is told it, without its hash."""
        return f"{self.name}=={self.version}"


class Lock(BaseModel):
    """NAME.lock beside a recipe NAME.yaml, and image.lock in an image made from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    image: str
    recipe_sha256: str
    device: str
    cuda: str | None
    mpi: str
    python: str
    architecture: str
    packages: list[Locked]

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version."""
        return {package.name: package.version for package in self.packages}

    def text(self) -> str:
        """Return the file's content: a package a line."""
        head = self.model_dump(exclude={"packages"})
        lines = [json.dumps(package.model_dump(exclude_none=True)) for package in self.packages]
        top = json.dumps(head, indent=1)[:-2]
        return f'{top},\n "packages": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"

    @property
    def sha256(self) -> str:
        """The hash by which an image names its lock."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def lock_file(recipe: Path) -> Path:
    """Return where the lock of a recipe stands."""
    return recipe.with_suffix(".lock")


def recipe_sha256(image: Image) -> str:
    """Return the hash of what a recipe says, whatever its comments and layout."""
    return hashlib.sha256(json.dumps(image.model_dump(), sort_keys=True).encode()).hexdigest()


def load_lock(recipe: Path) -> Lock:
    """Read the lock of a recipe. Raises InputError where there is none, or it is of another state of the recipe."""
    path, image = lock_file(recipe), load_image(recipe)
    renew = f"run: hpc_kit image lock {recipe.stem if recipe.parent.name == 'containers' else recipe}"
    try:
        lock = Lock.model_validate_json(path.read_text())
    except OSError:
        raise InputError(f"{recipe}: has no lock {path.name} beside it; {renew}") from None
    except ValidationError as error:
        what = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, what['loc']))}: {what['msg']}") from None
    if lock.schema_version != SCHEMA:
        raise InputError(f"{path}: has schema {lock.schema_version}, this version reads {SCHEMA}; {renew}")
    if lock.recipe_sha256 != recipe_sha256(image):
        raise InputError(f"{path}: is not of what {recipe.name} says now; {renew}")
    if wrong := lock_problems(image, lock):
        raise InputError("\n".join(f"{path}: {problem}" for problem in wrong))
    return lock


def lock_problems(image: Image, lock: Lock) -> list[str]:
    """Return what in a lock cannot work together."""
    found = problems(lock.versions, image.device, image.cuda, image.driver)
    asked = {wanted(text)[0]: wanted(text)[1] for packages in image.stages.values() for text in packages}
    return found + [
        f"{name} is {lock.versions.get(name)}, and the recipe asks for {version}"
        for name, version in asked.items()
        if lock.versions.get(name) != version
    ]


def write_lock(recipe: Path, lock: Lock) -> None:
    """Write the lock of a recipe. Raises InputError where its folder cannot be written to."""
    try:
        write_atomically(lock_file(recipe), lock.text().encode())
    except OSError as error:
        raise InputError(
            f"{lock_file(recipe)}: {error.strerror}; copy the recipe and its lock to a folder of your own"
        ) from None


def resolve(recipe: Path, wheelhouse: Path) -> Lock:
    """Find every package of a recipe, stage by stage, each under what the stages before it have fixed and what the
    later ones name: a package that one stage needs and a later one names goes in with the first, as the later asks.

    Wheels named by URL are fetched into `wheelhouse`; one that cannot be had is locked as unverified, and what it
    depends on is taken from `requires`. Raises InputError where a stage asks for what an earlier one has fixed
    otherwise, WorkError where the index cannot be reached.
    """
    image = load_image(recipe)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != image.python:
        raise InputError(f"{image.name} is for Python {image.python}: lock it with that Python (this is {here})")
    wheelhouse.mkdir(parents=True, exist_ok=True)
    packages: list[Locked] = []
    named = [wanted(text) for texts in image.stages.values() for text in texts]
    asked = {name: version for name, version, url in named if not url}
    with tempfile.TemporaryDirectory() as scratch:
        stand_ins = Path(scratch) / "wheels"
        stand_ins.mkdir()
        for stage, texts in image.stages.items():
            by_url = [_by_url(image, text, stage, wheelhouse, stand_ins) for text in texts if wanted(text)[2]]
            pins = [f"{name}=={version}" for name, version, _ in map(wanted, texts)]
            known = {package.name: package for package in [*packages, *by_url]}
            links = [str(wheelhouse), str(stand_ins)] if any(p.url for p in known.values()) else []
            fixed = asked | {package.name: package.version for package in known.values()}
            fixed = {name: version for name, version in fixed.items() if f"{name}=={version}" not in pins}
            found = _ask_pip(image, stage, pins, fixed, links, Path(scratch))
            packages += by_url
            packages += [
                Locked(name=name, version=version, stage=stage, file=file, sha256=sha256)
                for name, version, file, sha256 in found
                if name not in known
            ]
    lock = Lock(
        schema_version=SCHEMA,
        image=image.name,
        recipe_sha256=recipe_sha256(image),
        device=image.device,
        cuda=image.cuda,
        mpi=image.mpi,
        python=image.python,
        architecture=image.architecture,
        packages=packages,
    )
    if wrong := lock_problems(image, lock):
        raise InputError("\n".join(f"{recipe}: {problem}" for problem in wrong))
    return lock


def _by_url(image: Image, text: str, stage: str, wheelhouse: Path, stand_ins: Path) -> Locked:
    name, version, url = wanted(text)
    file = wheelhouse / wheel_name(url)
    if not file.exists():
        fetch_url(image, name, version, url, wheelhouse)
    if file.exists():
        sha256 = file_sha256(file)
    elif name in image.requires:
        sha256 = UNVERIFIED
        empty_wheel(stand_ins, name, version, image.requires[name])
    else:
        raise InputError(
            f"{url}: cannot be reached from here: state what it depends on, under requires: {name}: [...]"
        )
    return Locked(name=name, version=version, stage=stage, file=file.name, sha256=sha256, url=url)


def fetch_url(image: Image, name: str, version: str, url: str, wheelhouse: Path) -> None:
    """Fetch a wheel that a URL names: from where pip is set up to look, if that has the very file, else from there.

    Leaves nothing behind where neither has it.
    """
    with tempfile.TemporaryDirectory(dir=wheelhouse) as folder:
        for what in (f"{name}=={version}", url):
            try:
                pip("download", "--no-deps", *target(image), "--dest", folder, what, patient=False)
            except WorkError:
                continue
            if (got := Path(folder) / wheel_name(url)).exists():
                got.rename(wheelhouse / got.name)
                return


def _ask_pip(
    image: Image, stage: str, pins: list[str], fixed: dict[str, str], links: list[str], scratch: Path
) -> list[tuple[str, str, str, str]]:
    """Return (name, version, file, sha256) of all that `pins` need, by name; `fixed`: name -> version."""
    constraints, report = scratch / "constraints.txt", scratch / "report.json"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in fixed.items()))
    more = [word for link in links for word in ("--find-links", link)]
    if stage == "dgl":
        more.append("--no-deps")
    try:
        pip(
            *("install", "--dry-run", "--ignore-installed", "--target", str(scratch / "nowhere"), *target(image)),
            *("--report", str(report), "--constraint", str(constraints), *more, *pins),
        )
    except WorkError as error:
        if "conflict" in str(error) or "No matching distribution" in str(error):
            raise InputError(
                f"{image.name}: stage {stage!r} asks for what the stages before it have fixed otherwise, or for what"
                f" is nowhere:\n{error}"
            ) from None
        raise
    found = []
    for item in json.loads(report.read_text())["install"]:
        told = item["download_info"]
        sha256 = told["archive_info"].get("hashes", {}).get("sha256", UNVERIFIED)
        name = str(canonicalize_name(item["metadata"]["name"]))
        found.append((name, item["metadata"]["version"], wheel_name(told["url"]), sha256))
    return sorted(found)


def empty_wheel(folder: Path, name: str, version: str, requires: list[str]) -> None:
    """Write a wheel that holds nothing but what `name` depends on, for pip to reckon with."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {text}\n" for text in requires),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: hpc_kit\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{stem}.dist-info/{file},sha256={digest},{len(text)}\n")
            wheel.writestr(f"{stem}.dist-info/{file}", text)
        wheel.writestr(f"{stem}.dist-info/RECORD", "".join([*rows, f"{stem}.dist-info/RECORD,,\n"]))
