"""Verifies an image file: what it says of itself against the recipe's lock, then doctor inside of it."""

import json
import shutil
import subprocess
from pathlib import Path

from hpc_kit.checks import Check
from hpc_kit.images.lock import load_lock
from hpc_kit.images.sif import ImageFile, read_image
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.image import recipe_files

VERIFY_WITHIN_S = 600.0


def verify(file: Path, gpu: str | None = None) -> list[Check]:
    """Return what was found, from outside and from inside. gpu: "nv" or "rocm" shows the machine's GPUs inside.

    Raises InputError where the file is no image or Apptainer is missing.
    """
    image = read_image(file)
    if shutil.which("apptainer") is None:
        raise InputError("apptainer is not on PATH: verify where it is")
    return [_origin(image), *_inside(file, gpu)]


def _origin(image: ImageFile) -> Check:
    lock, commit = (image.lock or "")[:12], (image.commit or "")[:12]
    seen = f"{image.image}, lock {lock}, commit {commit}, sha256 {image.sha256[:12]}"
    if image.image is None:
        return Check("origin", "fail", "it has no labels of hpc_kit", "build it with hpc_kit image build")
    recipe = recipe_files().get(image.image)
    if recipe is None:
        return Check("origin", "warn", f"{seen}: no recipe of that name ships", "")
    if load_lock(recipe).sha256 != image.lock:
        return Check("origin", "warn", f"{seen}: built from another lock than {recipe.stem}'s now", "build it again")
    return Check("origin", "pass", seen)


def _inside(file: Path, gpu: str | None) -> list[Check]:
    argv = ["apptainer", "exec", *([f"--{gpu}"] if gpu else []), str(file), "hpc_kit", "doctor", "--json"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=VERIFY_WITHIN_S)
        return [Check(**found) for found in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        return [Check("inside", "fail", f"no answer in {VERIFY_WITHIN_S:.0f} s", "try: apptainer exec IMAGE true")]
    except ValueError:
        return [
            Check("inside", "fail", done.stderr.strip()[-300:] or "doctor said nothing", "try: apptainer shell IMAGE")
        ]
