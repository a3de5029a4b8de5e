"""Jobs of kind "dynamics": what a user writes, and how it becomes pieces of work. The login side (node: run.py).

Not for: what came of a run (summary.py).
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpc_kit.data.manifest import FILE_NAME, read_manifest
from hpc_kit.files import file_sha256
from hpc_kit.md.summary import print_summary, summarize
from hpc_kit.plan import Varied, Works
from hpc_kit.plan import Work as AnyWork
from hpc_kit.predict.weights import find_weights, pinned
from hpc_kit.runs.layout import task_directory
from hpc_kit.runs.stated import stated
from hpc_kit.spec.document import Document, Strict
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Job as AnyJob
from hpc_kit.spec.models import Positive
from hpc_kit.spec.shipped import user_path
from hpc_kit.spec.train import Weights

__all__ = ["Job", "Work", "works", "summarize", "print_summary"]

Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(ge=0)]


def short_name(molecule: str) -> str:
    """Return the name of a molecule that is named or given as a file: "x" of "geometries/x.xyz"."""
    path = Path(molecule)
    return path.stem if path.suffix in (".xyz", ".extxyz", ".cif", ".vasp", ".pdb", ".json") else path.name


class Equilibrate(Strict):
    """Langevin steps before the run at constant energy, from momenta drawn at `temperature_K`; `steps: 0` leaves them
    out."""

    steps: Whole = 5000
    timestep_fs: Number = 0.5
    friction_per_ps: Number = 10.0


class Limits(Strict):
    """What ends a replica: a bond `bond_A` longer or shorter than at the start, an atom `fly_away_A` beyond twice the
    molecule's first radius, a pair `closer_A` closer than the training ever saw, a total energy
    `energy_eV_per_atom` off its start, a temperature `temperature` times the one asked for."""

    bond_A: Number = 0.5
    fly_away_A: Number = 3.0
    closer_A: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2
    energy_eV_per_atom: Number = 0.1
    temperature: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10.0


class Dynamics(Strict):
    """Move `replicas` of each of `molecules` (names that ship with the package, or files) for `steps` at constant
    energy, with the forces of `model` (a run, a task directory or a best.pt) or of GFN2-xTB.

    A frame of each replica is kept every `every` steps. `start`: a trajectory of a task, whose last frames are gone
    on from. `training`: the shard set that the model was trained on; null: the one that its task names, if it is
    there. To judge a model, `reference` is "xtb" or a file or shard set of frames for each molecule; `untrained`
    moves them with weights as drawn too, and `direct` names models that were trained on a molecule itself.
    """

    calculator: Literal["model", "xtb"] = "model"
    model: Text | None = None
    molecules: Annotated[list[Text], Field(min_length=1)]
    replicas: Positive = 8
    steps: Positive = 100_000
    timestep_fs: Annotated[float, Field(gt=0, le=20)] = 0.1
    every: Positive = 50
    temperature_K: Number = 500.0
    equilibrate: Equilibrate = Equilibrate()
    start: Text | None = None
    ending: Literal["extxyz", "h5"] = "extxyz"
    precision: Literal["fp32", "fp64"] = "fp32"
    skin: Annotated[float, Field(ge=0, le=20)] = 0.5
    target: Text | None = None
    limits: Limits = Limits()
    training: Text | None = None
    reference: Literal["xtb"] | dict[str, Text] | None = None
    untrained: bool = False
    direct: dict[str, Text] = {}
    allow_unseen: bool = False
    modules: list[str] = []

    @model_validator(mode="after")
    def _parts_fit(self) -> "Dynamics":
        if (self.calculator == "model") != (self.model is not None):
            raise ValueError("calculator: model needs model (a run, a task directory or a best.pt); xtb takes none")
        if self.calculator == "xtb" and (self.reference or self.untrained or self.direct or self.training):
            raise ValueError("reference, untrained, direct and training judge a model; calculator: xtb takes none")
        names = [short_name(name) for name in self.molecules]
        if len(set(names)) < len(names):
            raise ValueError(f"molecules must have different names (got {', '.join(names)})")
        if self.steps % self.every:
            raise ValueError(f"steps must be a multiple of every (got {self.steps} and {self.every})")
        if self.start and len(self.molecules) > 1:
            raise ValueError("start is the trajectory of one molecule: molecules must name that one alone")
        named = [*self.direct, *(self.reference if isinstance(self.reference, dict) else ())]
        if unknown := [name for name in named if name not in names]:
            raise ValueError(f"reference and direct name molecules of the list; {unknown[0]!r} is not in it")
        return self


class Job(AnyJob):
    """A job that moves molecules, once for each seed."""

    varied: ClassVar[tuple[str, ...]] = ("dynamics",)

    kind: Literal["dynamics"]
    dynamics: Dynamics


class File(Strict):
    """A file or a shard set with the sha256 of its content."""

    path: str
    sha256: str


class Work(AnyWork):
    """What to move, with whole paths. molecules, references: name -> file; fields: force field ("model", "untrained",
    "direct <molecule>", none for xtb) -> its weights; training: the shard set that the model was trained on."""

    dynamics: Dynamics
    molecules: dict[str, File]
    fields: dict[str, list[Weights]]
    references: dict[str, File]
    start: File | None
    training: File | None
    told: list[str]

    def content(self) -> dict[str, Any]:
        return {
            **self.dynamics.model_dump(
                exclude={"model", "molecules", "start", "training", "reference", "direct", "modules"}
            ),
            "reference": "xtb" if self.dynamics.reference == "xtb" else None,
            "molecules": {name: file.sha256 for name, file in self.molecules.items()},
            "fields": {name: [one.sha256 for one in weights] for name, weights in self.fields.items()},
            "references": {name: file.sha256 for name, file in self.references.items()},
            "start": self.start and self.start.sha256,
            "training": self.training and self.training.sha256,
        }

    def folders(self) -> list[str]:
        files = [*self.molecules.values(), *self.references.values(), self.start, self.training]
        return [*(f.path for f in files if f), *(one.path for group in self.fields.values() for one in group)]

    def amount(self) -> tuple[int, str]:
        asked, legs = self.dynamics, len(self.legs())
        ahead = 0 if asked.start else asked.equilibrate.steps
        return legs * (ahead + asked.steps), "steps"

    def notes(self) -> list[str]:
        return self.told

    def legs(self) -> list[tuple[str, list[str]]]:
        """Return (force field, molecules that it moves together), in the order in which they are run."""
        asked = self.dynamics
        every = list(self.molecules)
        legs = [("xtb", every)] if "xtb" in (asked.calculator, asked.reference) else []
        legs += [("model", every)] if asked.calculator == "model" else []
        legs += [("untrained", every)] if asked.untrained else []
        return legs + [(name, [name.removeprefix("direct ")]) for name in self.fields if name.startswith("direct ")]


def works(jobs: Varied) -> Works:
    """Yield each job with its piece of work. Raises InputError where a molecule, a model or a file does not fit."""
    for job, document in jobs:
        if job.resources.nodes * job.resources.ranks_per_node > 1:
            text = "a task of kind 'dynamics' is one process: nodes: 1, ranks_per_node: 1; vary seeds for more"
            raise document.error(("resources",), text)
        yield job, _Reader(job.dynamics, document).work()


class _Reader:
    """Reads what a job names, and says which key is wrong."""

    def __init__(self, asked: Dynamics, document: Document):
        self.asked, self.document, self.told = asked, document, []

    def work(self) -> Work:
        asked = self.asked
        molecules, elements = self._molecules()
        fields = {}
        if asked.model:
            fields["model"] = self._weights(("dynamics", "model"), asked.model, elements)
        if asked.untrained:
            fields["untrained"] = fields["model"][:1]
        for name, path in asked.direct.items():
            fields[f"direct {name}"] = self._weights(("dynamics", "direct", name), path, {name: elements[name]})
        named = asked.reference if isinstance(asked.reference, dict) else {}
        references = {name: self._file(("dynamics", "reference", name), path) for name, path in named.items()}
        start = self._file(("dynamics", "start"), asked.start) if asked.start else None
        return Work(
            dynamics=asked,
            molecules=molecules,
            fields=fields,
            references=references,
            start=start,
            training=self._training(fields["model"][0]) if asked.model else None,
            told=self.told,
        )

    def _molecules(self) -> tuple[dict[str, File], dict[str, set[int]]]:
        from hpc_kit.md.molecules import find_molecule, read_molecule

        files, elements = {}, {}
        for name in self.asked.molecules:
            try:
                path = find_molecule(name)
                elements[short_name(name)] = set(read_molecule(path).numbers.tolist())
            except InputError as error:
                raise self.document.error(("dynamics", "molecules"), str(error)) from None
            files[short_name(name)] = File(path=str(path), sha256=file_sha256(path))
        return files, elements

    def _weights(self, key: tuple[str, ...], text: str, elements: dict[str, set[int]]) -> list[Weights]:
        from ase.data import chemical_symbols

        try:
            found = find_weights(user_path(text))
            for path in found.paths:
                said = stated(path)
                if not isinstance(said.get("elements"), list) or not isinstance(said.get("units"), dict):
                    raise InputError(f"{path}: is no whole best.pt of this hpc_kit")
                if not said.get("forces"):
                    raise InputError(
                        f"{path}: was trained without forces, so its gradient is no force field; train it with"
                        " data.forces: true"
                    )
                for name, numbers in elements.items():
                    unseen = sorted(numbers - set(said["elements"]))
                    if unseen and not self.asked.allow_unseen:
                        symbols = ", ".join(chemical_symbols[z] for z in unseen)
                        raise InputError(
                            f"{name} holds {symbols}, which the training never saw; allow_unseen: true moves it all"
                            " the same"
                        )
            self.told += found.notes
            return pinned(found.paths)
        except InputError as error:
            raise self.document.error(key, str(error)) from None
        except OSError as error:
            raise self.document.error(key, f"{error.filename}: cannot be read: {error.strerror}") from None

    def _file(self, key: tuple[str, ...], text: str) -> File:
        path = user_path(text)
        try:
            digest = read_manifest(path).sha256 if (path / FILE_NAME).exists() else file_sha256(path)
        except InputError as error:
            raise self.document.error(key, str(error)) from None
        except OSError as error:
            raise self.document.error(key, f"{path}: cannot be read: {error.strerror}") from None
        return File(path=str(path), sha256=digest)

    def _training(self, weights: Weights) -> File | None:
        """Return the shard set that the model was trained on: the one named, or the one that its task names."""
        expected = stated(Path(weights.path)).get("dataset_sha256")
        if self.asked.training:
            found = self._file(("dynamics", "training"), self.asked.training)
            if found.sha256 != expected:
                text = f"{found.path}: is not the shard set that the model was trained on"
                raise self.document.error(("dynamics", "training"), text)
            return found
        try:
            folder = Path(task_directory(Path(weights.path).parent).read_task().work.dataset)
            if read_manifest(folder).sha256 == expected:
                return File(path=str(folder), sha256=str(expected))
        except (InputError, OSError, AttributeError):
            pass
        self.told.append(
            "the training set of the model is not at hand (dynamics.training names it): distances are held against"
            " the reference frames, or where there are none against covalent radii alone"
        )
        return None
