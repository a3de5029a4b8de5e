"""A trained model as an ASE calculator: `atoms.calc = Calculator("runs/x")`."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AnyCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.structures import RejectedError
from hpc_kit.predict.neighbours import Neighbours
from hpc_kit.predict.predictor import Predictor
from hpc_kit.spec.errors import InputError, allowed

_ENERGIES = ("eV", "eV/atom")


class Calculator(AnyCalculator):
    """Energy (eV), forces (eV/Angstrom) and stress (eV/Angstrom^3) of a model; of an ensemble their means, with
    `energy_std`, `forces_std` in `results`.

    model: a run, a task directory, a best.pt or a Predictor. target: which of several targets in eV (or eV/atom,
    times the atoms then) is the energy. skin: Angstrom beyond the cutoff that the neighbour list reaches, so that it
    is made anew only when atoms have moved half as far. precision "fp64" for small differences of energies. Elements
    that the training never saw are refused, but for allow_unseen. Stress needs three periodic directions. Raises
    InputError where the model has no energy, or is not for the structure.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(
        self,
        model: Path | str | Predictor,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        skin: float = 0.5,
        target: str | None = None,
        allow_unseen: bool = False,
        modules: Sequence[str] = (),
    ):
        super().__init__()
        if not skin >= 0:
            raise InputError(f"skin: must be a distance in Angstrom, 0 or more (got {skin})")
        loaded = isinstance(model, Predictor)
        self.predictor = model if loaded else Predictor.load(model, device, precision, modules)
        self.target = energy_of(self.predictor, target)
        self.neighbours = Neighbours(self.predictor.graph, skin)
        self._allow_unseen = allow_unseen
        self._suits: tuple = ()
        if not self.predictor.spec.for_forces:
            name = self.predictor.spec.name
            warnings.warn(f"model {name} is not meant for forces (docs/models.md says why)", stacklevel=2)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results`. Raises InputError where the structure is one that the model is not for."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        self._check(atoms, properties)
        strain = "stress" in properties
        values, forces, strained = self.predictor.of_batch(self._batch(atoms), self.target, strain)
        count = len(atoms) if self.predictor.units[self.target] == "eV/atom" else 1
        energies = values[:, 0, list(self.predictor.units).index(self.target)] * count
        forces = forces * count
        energy = float(energies.mean())
        self.results = {"energy": energy, "free_energy": energy, "forces": forces.mean(axis=0)}
        if strain:
            stress = strained[:, 0].mean(axis=0) * count / atoms.get_volume()
            self.results["stress"] = stress.flat[[0, 4, 8, 5, 2, 1]]  # Voigt's order: xx, yy, zz, yz, xz, xy
        if len(energies) > 1:
            self.results |= {"energy_std": float(energies.std(ddof=1)), "forces_std": forces.std(axis=0, ddof=1)}

    def _check(self, atoms: Atoms, properties: Sequence[str]) -> None:
        """Raise InputError where the model is not for these elements or this cell; looked at when they change."""
        if "stress" in properties and not atoms.pbc.all():
            raise PropertyNotImplementedError("stress: the structure is not periodic in three directions")
        if not np.isfinite(atoms.positions).all():
            raise InputError("a position is NaN or infinite: the dynamics has blown up, or the structure is damaged")
        suits = (atoms.numbers.tobytes(), atoms.pbc.tobytes())
        if suits == self._suits:
            return
        if not len(atoms):
            raise InputError("no atoms")
        reason, _ = self.predictor.reason_against(atoms.numbers, atoms.pbc, self._allow_unseen)
        if reason:
            raise InputError(
                f"{atoms.get_chemical_formula()}: {reason.replace('--allow-unseen', 'allow_unseen=True')}"
            )
        self._suits = suits

    def _batch(self, atoms: Atoms) -> GraphBatch:
        pos, cell = np.asarray(atoms.positions, dtype=np.float64), np.asarray(atoms.cell, dtype=np.float64)
        try:
            src, dst, shift = self.neighbours.edges(atoms.numbers, pos, cell, atoms.pbc)
        except RejectedError as error:
            raise InputError(f"{atoms.get_chemical_formula()}: {error}") from None
        # Near the origin, where float32 is finest; cells that are not periodic are zero, as in shards.
        pos = torch.from_numpy(pos - pos.mean(axis=0)).to(self.predictor.dtype)
        cell = torch.from_numpy(np.where(atoms.pbc[:, None], cell, 0.0)).to(self.predictor.dtype)
        return GraphBatch(
            z=torch.from_numpy(atoms.numbers.astype(np.int64)),
            pos=pos,
            cell=cell.unsqueeze(0),
            src=torch.from_numpy(src),
            dst=torch.from_numpy(dst),
            shift=torch.from_numpy(shift.astype(np.int8)) if atoms.pbc.any() else None,
            atom_ptr=torch.tensor([0, len(atoms)]),
            edge_ptr=torch.tensor([0, len(src)]),
            targets=torch.zeros(1, len(self.predictor.units), dtype=torch.float64),
        )


def energy_of(predictor: Predictor, target: str | None) -> str:
    """Return the target that is the energy: the one named, or the only one that can be."""
    able = [name for name, unit in predictor.units.items() if unit in _ENERGIES]
    if target is not None and target not in able:
        raise InputError(f"target {target!r} is no energy of this model; {allowed(target, able)}")
    if not able:
        units = ", ".join(f"{name} in {unit or 'no unit'}" for name, unit in predictor.units.items())
        raise InputError(f"the model predicts {units}: none of it is an energy in {' or '.join(_ENERGIES)}")
    if target is None and len(able) > 1 and predictor.energy is None:
        raise InputError(f"several targets are in eV: say which is the energy, target=...; {', '.join(able)}")
    return target or predictor.energy or able[0]
