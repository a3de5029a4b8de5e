"""The recipe of an image as a typed model: what it stands on, and the stages in which packages go in, in one order.

Not for: which versions and hashes that means (images/lock.py), or which versions bear each other
(images/compatibility.py).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

from packaging.utils import canonicalize_name, parse_wheel_filename
from pydantic import Field, model_validator

from hpc_kit.spec.document import Strict, read_extended
from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.shipped import find_shipped, shipped_folder, user_path

IMAGES = "HPC_KIT_IMAGES"  # the variable that names another folder for images than OWN_IMAGES
OWN_IMAGES = Path("~/.local/share/hpc_kit/images")
# The stages in their order, each with the reason for its place. Each is installed with nothing but what it names.
STAGES = {
    "mpi": "the launcher's library; what links MPI later has to find this one and no other",
    "numpy": "the ABI that everything compiled below was built for; fixed before a later package can ask for another",
    "torch": "the build for this image's device; no other stage may bring or change it",
    "dgl": "compiled against exactly that torch, and put in without what it asks for, which would move torch",
    "graphs": "what computes with torch",
    "search": "what talks over MPI",
    "tools": "files, schedulers and the command line",
}
TORCH = ("torch", "torchvision", "torchaudio", "triton", "pytorch-triton")
# torchdata: what DGL's GraphBolt imports; alignn: asks for a torch and a dgl older than those that it runs with.
OF_DGL = ("dgl", "torchdata", "alignn")
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+)$")
Text = Annotated[str, Field(min_length=1)]


class Base(Strict):
    """What an image stands on: the docker reference `docker`, or where there is no network a root file system of
    Debian's `suite` made with mmdebstrap and holding `packages`."""

    docker: Text
    suite: Text = "bookworm"
    packages: list[Text] = ["python3", "python3-venv", "ca-certificates"]


class Image(Strict):
    """One image. `stages` maps each stage to its packages, as name==version or as the URL of a wheel; what they
    depend on is found when the recipe is locked. `requires` states what a wheel depends on that cannot be read at
    that time. `cuda` is the version that torch is built for, `driver` the oldest NVIDIA driver the image is for.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    description: Text
    device: Literal["cpu", "cuda"]
    cuda: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    driver: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")] | None = None
    mpi: Literal["openmpi", "mpich"]
    python: Annotated[str, Field(pattern=r"^3\.\d+$")] = "3.11"
    architecture: Literal["x86_64"] = "x86_64"
    base: Base
    environment: dict[
        Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")], Annotated[str, Field(pattern=r"^\S*$")]
    ] = {}
    stages: dict[str, Annotated[list[Text], Field(min_length=1)]]
    requires: dict[str, list[Text]] = {}

    @model_validator(mode="after")
    def _device_fits(self) -> "Image":
        if (self.device == "cuda") != (self.cuda is not None) or (self.cuda is None) != (self.driver is None):
            raise ValueError("device cuda needs cuda: and driver:, and device cpu takes neither")
        return self

    @model_validator(mode="after")
    def _stages_in_order(self) -> "Image":
        for name in self.stages:
            if name not in STAGES:
                raise ValueError(f"stages: {name!r} is none; {allowed(name, STAGES)}")
        given = list(self.stages)
        if given != (right := [name for name in STAGES if name in self.stages]):
            early = next(a for a, b in zip(given, right, strict=True) if a != b)
            raise ValueError(
                f"stages: {early!r} comes too early; the order is {', '.join(right)} ({early}: {STAGES[early]})"
            )
        return self

    @model_validator(mode="after")
    def _packages_in_their_stages(self) -> "Image":
        seen: dict[str, str] = {}
        for stage, packages in self.stages.items():
            for text in packages:
                name = wanted(text)[0]
                if name in seen:
                    raise ValueError(f"stages: {name} is in stage {seen[name]!r} and in {stage!r}")
                seen[name] = stage
        for name, stage in seen.items():
            right = "torch" if name in TORCH else "dgl" if name in OF_DGL else name if name in ("numpy",) else None
            right = "mpi" if name in ("openmpi", "mpich") else right
            if right is not None and stage != right:
                raise ValueError(f"stages: {name} is in stage {stage!r} and belongs in {right!r}: {STAGES[right]}")
        if seen.get("torch") is None:
            raise ValueError("stages: torch names no torch")
        if self.mpi not in seen:
            raise ValueError(f"stages: mpi is {self.mpi!r} and no stage brings it")
        return self


def wanted(text: str) -> tuple[str, str, str | None]:
    """Return (name, version, URL or None) of a package as a recipe names it. Raises ValueError."""
    if text.startswith("https://"):
        name, version, _, _ = parse_wheel_filename(wheel_name(text))
        return str(name), str(version), text
    found = _PINNED.match(text)
    if not found:
        raise ValueError(f"stages: {text!r} must be name==version or the https:// URL of a wheel")
    return str(canonicalize_name(found[1])), found[2], None


def wheel_name(url: str) -> str:
    """Return the file name in the URL of a wheel."""
    return unquote(url.rsplit("/", 1)[-1])


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: a path, or one that ships. Raises InputError."""
    return find_shipped("containers", name)


def load_image(path: Path) -> Image:
    """Read a recipe; with `extends: NAME` it holds only what differs from that one. Raises InputError."""
    image = read_extended(path, lambda name, _: find_recipe(name)).check(Image)
    if image.name != path.stem:
        raise InputError(f"{path}: name: must be that of the file, {path.stem!r} (got {image.name!r})")
    return image


def recipe_files() -> dict[str, Path]:
    """Return the recipes that ship by name."""
    return {file.stem: file for file in sorted(shipped_folder("containers").glob("*.yaml"))}


def images_folder() -> Path:
    """Return the folder in which images are found by name."""
    return user_path(os.environ.get(IMAGES) or OWN_IMAGES)


def image_file(text: str) -> Path:
    """Return the file that a job's `image:` means: a path, or the name of an image in images_folder()."""
    by_name = "/" not in text and not text.endswith(".sif") and not os.path.exists(text)
    return images_folder() / f"{text}.sif" if by_name else user_path(text)


def why_missing(path: Path) -> str:
    """Return what to say of an image file that is not there, and what to do."""
    if path.parent != images_folder() or path.suffix != ".sif":
        return f"image {path}: no such file; an image is a path, or a name of 'hpc_kit image list'"
    if path.stem in recipe_files():
        return f"image {path.stem}: is not built: 'hpc_kit image build {path.stem}' writes {path}"
    names = allowed(path.stem, recipe_files())
    return f"image {path.stem}: not found here, nor as {path}, and no recipe of that name ships; {names}"
