"""What the testbed installs: packages of Debian or Ubuntu, by root."""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def missing(what: str) -> str:
    """Return why `what` cannot be set up here; "" where it can."""
    if os.geteuid() != 0:
        return f"{what} can only be set up by root"
    return "" if shutil.which("apt-get") else f"{what} is set up with Debian's packages"


def install(commands: tuple[str, ...], packages: tuple[str, ...]) -> None:
    """Install `packages` unless all `commands` are there. Of several processes one installs at a time."""
    if all(shutil.which(name) for name in commands):
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with locked("installation"):
        for words in (["update", "-qq"], ["install", "-y", "-qq", *packages]):
            done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise RuntimeError(f"apt-get {words[0]}: {done.stderr[-2000:]}")


@contextlib.contextmanager
def locked(what: str, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on `what` of this machine for the time of the block; False where another process has it and this
    one does not wait."""
    with Path(f"/run/lock/hpc_kit-tests-{what}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
