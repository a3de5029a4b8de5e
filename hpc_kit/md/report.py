"""What came of a task, as metrics.json has it: measures, distributions, and how far they are from the reference. The
node side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from hpc_kit.md.distributions import band, compare, h_error, unit_of, values_of
from hpc_kit.md.drift import SHORT_PS, curve_of, measures_of
from hpc_kit.md.forces import ModelForces
from hpc_kit.md.leg import Leg
from hpc_kit.md.molecules import bonds_of, groups_of
from hpc_kit.md.novelty import FeatureRange
from hpc_kit.md.reference import Reference, errors_on
from hpc_kit.md.training import ELEMENTS, Range
from hpc_kit.plan import Task
from hpc_kit.spec.errors import InputError


def report(
    task: Task,
    legs: Sequence[Leg],
    molecules: dict[str, Atoms],
    references: dict[str, Reference],
    seen: Range | None,
    told: Sequence[str],
) -> dict[str, Any]:
    """Return the content of metrics.json."""
    asked = task.work.dynamics
    told, fields = list(told), []
    for leg in legs:
        novelty = None
        if seen is not None and leg.name == "model":
            try:
                novelty = FeatureRange(leg.forces, seen)
            except InputError as error:
                told.append(f"features are not held against the training's: {error}")
        fields.append(_field(leg, seen, novelty))
    if asked.steps * asked.timestep_fs / 1000 < SHORT_PS:
        told.append(f"the run is shorter than {SHORT_PS:g} ps: its drift says little")
    return {
        "timestep_fs": asked.timestep_fs,
        "steps": asked.steps,
        "every": asked.every,
        "temperature_K": asked.temperature_K,
        "seed": task.seed,
        "told": told,
        "molecules": [_molecule(name, atoms) for name, atoms in molecules.items()],
        "fields": fields,
        "training": seen and {"of": seen.of, "structures": seen.structures, "shortest": seen.described()},
        "reference": _about(asked.reference),
        "reference_groups": {name: _groups(molecules[name], found) for name, found in references.items()},
        "transfer": [
            _transfer(leg, number, molecules[name], references[name])
            for leg in legs
            if leg.name != "xtb"
            for number, name in enumerate(leg.names)
            if name in references
        ],
    }


def _about(reference: Any) -> str | None:
    return "GFN2-xTB, moved by this task" if reference == "xtb" else "frames of files" if reference else None


def _molecule(name: str, atoms: Atoms) -> dict[str, Any]:
    return {
        "name": name,
        "formula": atoms.get_chemical_formula(),
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.round(4).tolist(),
        "bonds": bonds_of(atoms).tolist(),
        "groups": {group: len(members) for group, members in groups_of(atoms).items()},
    }


def _field(leg: Leg, seen: Range | None, novelty: FeatureRange | None) -> dict[str, Any]:
    asked = leg.asked
    rate = leg.timed / leg.seconds if leg.seconds else None
    counts, atoms = (
        leg.systems.counts if len(leg.systems) else np.zeros(0),
        sum(map(len, leg.molecules)) * asked.replicas,
    )
    found = {
        "name": leg.name,
        "calculator": "GFN2-xTB" if leg.name == "xtb" else leg.forces.predictor.spec.name,
        "device": "cpu" if leg.name == "xtb" else str(leg.forces.predictor.device),
        "precision": "fp64" if leg.name == "xtb" else asked.precision,
        "steps_per_s": rate,
        "ns_per_day": rate and rate * asked.timestep_fs * 1e-6 * 86400,
        "atom_steps_per_s": rate and rate * atoms,
        "atoms_left": int(counts.sum()),
        "outside_by_pair": _outside(leg, seen) if leg.guard.looked.any() else [],
        "molecules": [],
    }
    for number, (name, start) in enumerate(zip(leg.names, leg.molecules, strict=True)):
        frames = leg.frames(number).read()
        ended = [vars(one) for one in leg.ended if one.molecule == name]
        first = min((one["time_fs"] for one in ended if one["phase"] == "production"), default=None)
        if any(one["phase"] == "equilibration" for one in ended):
            first = 0.0
        found["molecules"].append(
            {
                "name": name,
                "atoms": len(start),
                "file": leg.trajectory(number).name,
                "replicas": int(len(np.unique(frames["replica"]))),
                "ended": ended,
                "first_end_ps": None if first is None else first / 1000,
                "distances": int(leg.guard.looked[number]),
                "outside": int(leg.guard.outside[number]),
                "features_outside": novelty and novelty.outside(start, frames["pos"]),
                **measures_of(frames, start, asked.timestep_fs),
                "curve": curve_of(frames, asked.timestep_fs, len(start)) if len(frames) else {},
                "last": frames["pos"][-1].round(4).tolist() if len(frames) else None,
                "groups": _groups(start, Reference.of_frames(frames)) if len(frames) else {},
            }
        )
    return found


def _outside(leg: Leg, seen: Range | None) -> list[dict[str, Any]]:
    """Return which pairs of elements were at distances that the training never saw, most first."""
    counts, found = leg.guard.by_pair, []
    for pair in np.argsort(-counts)[:12].tolist():
        if counts[pair]:
            a, b = divmod(pair, ELEMENTS)
            known = seen is not None and np.isfinite(seen.shortest[pair])
            name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            found.append({"pair": name, "count": int(counts[pair]), "pair_in_training": bool(known)})
    return found


def _groups(start: Atoms, frames: Reference) -> dict[str, Any]:
    """Return the distribution of each group of bonds and angles."""
    found = {}
    for name, members in groups_of(start).items():
        values = values_of(frames.pos, members)
        found[name] = {
            "unit": unit_of(members),
            "mean": float(values.mean()),
            "sd": float(values.std()),
            "band": band(values, frames.replica, members),
        }
    return found


def _transfer(leg: Leg, number: int, start: Atoms, reference: Reference) -> dict[str, Any]:
    """Return how one molecule moved by one force field differs from its reference."""
    frames = leg.frames(number).read()
    found: dict[str, Any] = {"field": leg.name, "molecule": leg.names[number]}
    found["errors"] = errors_on(leg.forces, reference, start) if isinstance(leg.forces, ModelForces) else None
    production = [one.time_fs for one in leg.ended if one.molecule == leg.names[number] and one.phase == "production"]
    early = [one for one in leg.ended if one.molecule == leg.names[number] and one.phase == "equilibration"]
    found["first_end_ps"] = 0.0 if early else min(production, default=None) and min(production) / 1000
    found["ended"] = len(production) + len(early)
    found["frames"], found["reference_frames"] = len(frames), len(reference.pos)
    found["h_error"] = h_error(frames["pos"], reference.pos) if len(frames) else None
    found["groups"] = {}
    for name, members in groups_of(start).items() if len(frames) else ():
        ours, theirs = values_of(frames["pos"], members), values_of(reference.pos, members)
        compared = compare(ours, theirs, frames["replica"], reference.replica, members)
        found["groups"][name] = {"unit": unit_of(members), **compared}
    return found
