"""The machine at hand as a Parsl provider: blocks are processes, started without a shell's word splitting.

Parsl's own LocalProvider writes paths unquoted into a shell line and needs `ps` to cancel; this one does not.
"""

import os
import subprocess
from pathlib import Path

from parsl.jobs.states import JobState, JobStatus
from parsl.providers.base import ExecutionProvider
from parsl.utils import RepresentationMixin

from hpc_kit.runs.process import end_session

BLOCK_GRACE_S = 5.0  # for Parsl's own processes; tasks are in sessions of their own


class ProcessProvider(ExecutionProvider, RepresentationMixin):
    """One block: a bash process in a session of its own that runs Parsl's worker pool."""

    def __init__(self) -> None:
        self.nodes_per_block = 1
        self.init_blocks = 1
        self.min_blocks = 1
        self.max_blocks = 1
        self.parallelism = 1
        self.script_dir = None
        self.resources: dict[str, subprocess.Popen] = {}
        self.outputs: list[Path] = []  # where each block's goes

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        script = os.path.join(self.script_dir, f"{job_name}.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/bash\n{command}\n")
        self.outputs.append(Path(script + ".out"))
        with self.outputs[-1].open("wb") as out:
            block = subprocess.Popen(
                ["bash", script], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.resources[str(block.pid)] = block
        return str(block.pid)

    def status(self, job_ids: list[str]) -> list[JobStatus]:
        codes = [self.resources[job].poll() for job in job_ids]
        states = {None: JobState.RUNNING, 0: JobState.COMPLETED}
        return [JobStatus(states.get(code, JobState.FAILED), exit_code=code) for code in codes]

    def cancel(self, job_ids: list[str]) -> list[bool]:
        for job in job_ids:
            end_session(int(job), BLOCK_GRACE_S)
        return [True for _ in job_ids]

    @property
    def label(self) -> str:
        return "process"

    @property
    def status_polling_interval(self) -> int:
        return 5
