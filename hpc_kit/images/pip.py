"""Calls of pip for another machine: wheels alone, for the target's Python and platform.

Not for: what is asked of it (lock.py, wheelhouse.py).
"""

import os
import subprocess
import sys

from hpc_kit.spec.errors import WorkError
from hpc_kit.spec.image import Image

NEWEST_GLIBC = 36  # of Debian bookworm, which images stand on
_LEGACY = ("manylinux2014", "manylinux2010", "manylinux1", "linux")


def target(image: Image) -> list[str]:
    """Return the options that make pip choose wheels for the machine `image` is for."""
    platforms = [*(f"manylinux_2_{minor}" for minor in range(NEWEST_GLIBC, 4, -1)), *_LEGACY]
    chosen = [word for name in platforms for word in ("--platform", f"{name}_{image.architecture}")]
    return ["--only-binary=:all:", "--python-version", image.python, "--implementation", "cp", *chosen]


def pip(*arguments: str, patient: bool = True) -> None:
    """Run pip with the user's own settings. Raises WorkError with its last words.

    patient: try again where the network fails.
    """
    options = ["--disable-pip-version-check", "--no-input", *([] if patient else ["--retries=0", "--timeout=20"])]
    argv = [sys.executable, "-m", "pip", *arguments, *options]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PIP_QUIET": "0"})
    if done.returncode:
        _, found, conflict = done.stdout.partition("The conflict is caused by:")
        words = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise WorkError(
            "\n".join([*(conflict.split("To fix this")[0].strip().splitlines() if found else []), *words[-8:]])
        )
