"""Blocks that tests submit to PBS, and what is asked of them: shared by the tests of sites/pbs.py."""

import dataclasses
from pathlib import Path

import psutil
import pytest

from hpc_kit.sites.pbs import PBS
from hpc_kit.sites.scheduler import Block

BLOCK = Block(
    name="hk-a1-block-1",
    nodes=1,
    ranks=1,
    cores=8,
    gpus=0,
    memory_gb=16,
    whole_nodes=False,
    walltime_s=60,
    partition="debug",
    account="proj",
    options=(),
    log=Path("/logs/block.log"),
)


def queue(folder: Path, body: str, **changes) -> tuple[str, Block]:
    """Write a block's script with PBS's header and `body`, submit it, and return its id and what it asked for."""
    block = dataclasses.replace(BLOCK, **({"log": folder / "block.log"} | changes))
    script = folder / f"{block.name}.sh"
    script.write_text("\n".join(["#!/bin/bash", *PBS().header(block), body]) + "\n")
    return PBS().submit(script, block), block


def state(job: str) -> str:
    return PBS().records([job])[job].state


def ended(pbs, job: str):
    """Wait for the job's end and return its record."""
    waiting = ("queued", "running", "ending")
    pbs.wait(lambda: state(job) not in waiting)
    return PBS().records([job])[job]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def running(pbs, job: str, sign: Path) -> None:
    pbs.wait(lambda: state(job) == "running" and sign.exists())


def answering(monkeypatch: pytest.MonkeyPatch, folder: Path, answer: str) -> None:
    """Have qstat answer just this."""
    (folder / "answer").write_text(answer)
    program = folder / "qstat"
    program.write_text(f"#!/bin/sh\ncat {folder}/answer\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
