"""What the testbed installs: packages of Debian or Ubuntu, by root."""

import os
import shutil
import subprocess


def missing(what: str) -> str:
    """Return why `what` cannot be set up here; "" where it can."""
    if os.geteuid() != 0:
        return f"{what} can only be set up by root"
    return "" if shutil.which("apt-get") else f"{what} is set up with Debian's packages"


def install(commands: tuple[str, ...], packages: tuple[str, ...]) -> None:
    """Install `packages` unless all `commands` are there."""
    if all(shutil.which(name) for name in commands):
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", *packages]):
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RuntimeError(f"apt-get {words[0]}: {done.stderr[-2000:]}")
