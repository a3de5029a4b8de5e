"""One leg: some molecules moved together by one force field, equilibrated, then at constant energy; kept on disk so
that a restart gives the same numbers. The node side."""

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from hpc_kit.files import write_atomically
from hpc_kit.md.guard import Guard
from hpc_kit.md.job import Dynamics
from hpc_kit.md.systems import Systems
from hpc_kit.md.trajectory import Frames, frames_of
from hpc_kit.md.verlet import Verlet
from hpc_kit.spec.errors import InputError, WorkError

CHUNK = 200  # steps at least from one state on disk to the next
EARLY = 100  # steps after which a step that is too large is said
TOO_LARGE = 0.05  # deviation of the total energy over that of the potential energy


@dataclass
class Ended:
    """A replica that ended early: `step` counts from the start of `phase` ("equilibration" or "production")."""

    molecule: str
    replica: int
    phase: str
    step: int
    time_fs: float
    reason: str


@dataclass
class Leg:
    """A force field, and the molecules with their names that it moves.

    forces: a Forces with `forget()`; starts: systems to go on from, None: from the molecules' own geometries.
    `tick` is called with the steps that were made and the seconds they took, after each state on disk.
    """

    name: str
    names: Sequence[str]
    molecules: Sequence[Atoms]
    forces: Any
    guard: Guard
    asked: Dynamics
    folder: Path
    task: str
    seed: int
    starts: Systems | None = None
    ended: list[Ended] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0  # of production, in this process
    timed: int = 0  # steps that these seconds took

    @property
    def ahead(self) -> int:
        """How many Langevin steps come before production."""
        return 0 if self.starts is not None else self.asked.equilibrate.steps

    @property
    def total(self) -> int:
        return self.ahead + self.asked.steps

    @property
    def stem(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def state_file(self) -> Path:
        return self.folder / f"{self.stem}.state.npz"

    def frames(self, molecule: int) -> Frames:
        """Return the frames of one of the molecules."""
        atoms = self.molecules[molecule]
        return Frames(self.folder / f"{self.stem}-{self.names[molecule]}.frames", len(atoms))

    def trajectory(self, molecule: int) -> Path:
        """Return the file that the frames of one of the molecules are written to at the end."""
        return self.folder / f"{self.stem}-{self.names[molecule]}.{self.asked.ending}"

    def run(self, tick: Callable[[int, float], None]) -> None:
        """Move to the end, from where an earlier attempt came. Raises InputError, WorkError, and what `tick` does."""
        every, chunk = self.asked.every, -(-CHUNK // self.asked.every) * self.asked.every
        self._begin()
        while self.step < self.total and len(self.systems):
            began = time.perf_counter()
            last = (
                min(self.ahead, self.step + chunk) if self.step < self.ahead else min(self.total, self.step + chunk)
            )
            first = self.step
            if self.step == self.ahead:
                self._start_production()
            while self.step < last and len(self.systems):
                self._one_step()
                done = self.step - self.ahead
                if done > 0 and done % every == 0 and len(self.systems):
                    self.guard.count(self.systems)
                    self._collect(self._frames(done))
            self.forces.forget()
            self._write()
            took = time.perf_counter() - began
            if first >= self.ahead:
                self.seconds, self.timed = self.seconds + took, self.timed + self.step - first
            tick(self.step, took)
        self.step = self.total

    @property
    def systems(self) -> Systems:
        return self.verlet.systems

    def _begin(self) -> None:
        self._rng = np.random.default_rng([self.seed, len(self.names)])
        self._pending: dict[int, list[np.ndarray]] = {}
        self._early: list[np.ndarray] = []
        asked, self.dt = self.asked, self.asked.timestep_fs * units.fs
        if self.state_file.exists():
            self.verlet = self._read()
        else:
            if self.starts is not None:
                systems = self.starts
            else:
                systems = Systems.of(self.molecules, asked.replicas)
                systems.draw_momenta(asked.temperature_K, self._rng)
            for molecule in range(len(self.names)):
                self.frames(molecule).cut(0)
            self.verlet = Verlet(systems, self.forces, self.dt)
            if len(bad := systems.molecule[~self.verlet.finite()]):
                name = self.names[bad[0]]
                raise WorkError(f"{self.name}: energy or forces of {name} are not finite at the start")

    def _start_production(self) -> None:
        if self.starts is None:
            self.systems.stand_still()
        self.guard.begin(self.verlet)
        self._collect(self._frames(0))

    def _one_step(self) -> None:
        verlet, systems = self.verlet, self.systems
        before = (systems.pos, systems.momenta, verlet.energies, verlet.forces)
        if self.step < self.ahead:
            langevin = self.asked.equilibrate
            verlet.timestep = langevin.timestep_fs * units.fs
            friction = langevin.friction_per_ps / (1000 * units.fs)
            verlet.langevin(self.asked.temperature_K, friction, self._rng)
        else:
            verlet.timestep = self.dt
            verlet.step()
        self.step += 1
        broken = self.guard.check(verlet)
        if 0 < (done := self.step - self.ahead) <= EARLY:
            if broken:
                self._judge_step()
            else:
                self._early.append(np.stack([verlet.total(), verlet.energies]))
            if done == min(EARLY, self.asked.steps):
                self._judge_step()
        if broken:
            self._end(broken, before)

    def _end(self, broken: dict[int, str], before: tuple) -> None:
        """Keep the last frame of each replica that must end, and go on with the others."""
        verlet, systems = self.verlet, self.systems
        production = self.step > self.ahead
        step = self.step - (self.ahead if production else 0)
        dt = self.asked.timestep_fs if production else self.asked.equilibrate.timestep_fs
        for system, reason in sorted(broken.items()):
            molecule, replica = int(systems.molecule[system]), int(systems.replica[system])
            phase = "production" if production else "equilibration"
            gone = Ended(self.names[molecule], replica, phase, step, round(step * dt, 6), reason)
            self.ended.append(gone)
            print(f"{self.name}: {gone.molecule} replica {replica} ends at {gone.time_fs:g} fs of {phase}: {reason}")
            if reason.startswith("NaN"):  # the frame before is the last that says anything
                atoms = slice(systems.ptr[system], systems.ptr[system + 1])
                for now, then, part in zip(
                    (systems.pos, systems.momenta, verlet.energies, verlet.forces),
                    before,
                    (atoms, atoms, system, atoms),
                    strict=True,
                ):
                    now[part] = then[part]
        which = np.zeros(len(systems), bool)
        which[list(broken)] = True
        if production:
            atoms = which[systems.system_of_atom]
            self._collect(frames_of(systems.only(which), verlet.energies[which], verlet.forces[atoms], step))
        self.guard.keep(~which)
        verlet.keep(~which)

    def _judge_step(self) -> None:
        """Say once, after EARLY steps or when a replica ends before, that the step is too large, where the total
        energy moves as it must not."""
        early, self._early = self._early, []
        if len(early) < 10 or any("too large" in text for text in self.told):
            return
        total, potential = np.stack(early, axis=1)
        ratio = total.std(axis=0) / np.maximum(potential.std(axis=0), 1e-12)
        if (worst := float(ratio.max())) > TOO_LARGE:
            text = (
                f"{self.name}: over the first {len(early)} steps the total energy varies by {worst:.0%} of what the"
                f" potential energy does: timestep_fs {self.asked.timestep_fs:g} is too large for these forces, or"
                " they are no gradient of the energy"
            )
            self.told.append(text)
            print(text, flush=True)

    def _frames(self, step: int) -> dict[int, np.ndarray]:
        return frames_of(self.systems, self.verlet.energies, self.verlet.forces, step)

    def _collect(self, frames: dict[int, np.ndarray]) -> None:
        for molecule, found in frames.items():
            self._pending.setdefault(molecule, []).append(found)

    def _write(self) -> None:
        """Have frames and state on disk, the state last."""
        for molecule, parts in self._pending.items():
            self.frames(molecule).append(np.concatenate(parts))
        self._pending = {}
        systems = self.systems
        said = {
            "task": self.task,
            "step": self.step,
            "names": list(self.names),
            "sizes": [self.frames(m).size for m in range(len(self.names))],
            "ended": [vars(one) for one in self.ended],
            "told": self.told,
            "rng": self._rng.bit_generator.state,
        }
        arrays = {name: getattr(systems, name) for name in vars(systems)} | self.guard.state()
        arrays |= {"energies": self.verlet.energies, "forces": self.verlet.forces}
        early = np.stack(self._early) if self._early else np.zeros(0)
        buffer = io.BytesIO()
        np.savez(buffer, said=np.array(json.dumps(said)), early=early, **arrays)
        try:
            write_atomically(self.state_file, buffer.getvalue())
        except OSError as error:
            raise WorkError(f"{self.state_file}: not written: {error.strerror}") from None

    def _read(self) -> Verlet:
        path, remedy = self.state_file, "remove the folder parts/ to run the task from its start"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            said = json.loads(str(arrays.pop("said")))
            early = arrays.pop("early")
            guard = {name: arrays.pop(name) for name in list(arrays) if name.startswith("guard_")}
            found = arrays.pop("energies"), arrays.pop("forces")
            verlet = Verlet(Systems(**arrays), self.forces, self.dt, found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is damaged: {type(error).__name__}; {remedy}") from None
        if said["task"] != self.task or said["names"] != list(self.names):
            raise InputError(f"{path}: is of another run, the task {said['task']}; {remedy}")
        for molecule, size in enumerate(said["sizes"]):
            self.frames(molecule).cut(size)
        self.step, self.told = said["step"], said["told"]
        self.ended = [Ended(**one) for one in said["ended"]]
        self._rng.bit_generator.state = said["rng"]
        self._early = list(early)
        self.guard.load(guard)
        return verlet
