"""Predictions over a part of the data, and how wrong they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from hpc_kit.data.loader import Dataset
from hpc_kit.data.sampling import Limits
from hpc_kit.files import atomic_path
from hpc_kit.train.distributed import Group
from hpc_kit.train.objective import Objective

FORCE_UNIT = "eV/Angstrom"


@dataclass
class Predictions:
    """What a model says of the graphs `index`, beside what is known: values, truth [n, T] in the targets' units;
    forces, true_forces [A, 3] eV/Angstrom of their atoms, z [A] and atom_ptr [n+1], where forces are predicted."""

    index: np.ndarray
    values: np.ndarray
    truth: np.ndarray
    atom_ptr: np.ndarray | None = None
    z: np.ndarray | None = None
    forces: np.ndarray | None = None
    true_forces: np.ndarray | None = None

    def columns(self, names: list[str], units: dict[str, str]) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
        """Return name -> (unit, prediction, truth) of each target, and of `forces` where they are predicted."""
        found = {name: (units[name], self.values[:, i], self.truth[:, i]) for i, name in enumerate(names)}
        if self.forces is not None:
            found["forces"] = (FORCE_UNIT, self.forces, self.true_forces)
        return found


def predict(
    objective: Objective,
    data: Dataset,
    index: np.ndarray,
    limits: Limits,
    group: Group,
    meet: Callable[[bool], bool] | None = None,
) -> Predictions:
    """Return the predictions for `index`; every rank does its share, all get the whole.

    All ranks call `meet` together before each of their batches, with whether they have one; it returns whether any
    has, and may raise to stop.
    """
    objective.eval()
    order = np.argsort(index)
    values = torch.zeros(len(index), data.targets.shape[1], dtype=torch.float64, device=group.device)
    found = Predictions(index, values, data.targets[index])
    if objective.forces:
        found.atom_ptr = np.concatenate([[0], np.cumsum(data.atoms_per_graph[index])])
        blank = torch.zeros(found.atom_ptr[-1], 7, dtype=torch.float64, device=group.device)
    meet = meet or group.any
    batches = data.in_order(index, limits, group.rank, group.size)
    while meet((part := next(batches, None)) is not None):
        if part is None:  # others have one batch more
            continue
        numbers, batch = part
        batch = batch.to(group.device)
        place = order[np.searchsorted(index, numbers, sorter=order)]
        predicted, forces = objective.predict(batch)
        values[torch.from_numpy(place).to(group.device)] = predicted
        if forces is not None:
            spans = [np.arange(found.atom_ptr[p], found.atom_ptr[p + 1]) for p in place]
            rows = torch.from_numpy(np.concatenate(spans)).to(group.device)
            blank[rows] = torch.cat([forces, batch.forces.double(), batch.z.double().unsqueeze(1)], dim=1)
    found.values = group.sum(values).cpu().numpy()
    if objective.forces:
        whole = group.sum(blank).cpu().numpy()
        found.forces, found.true_forces, found.z = whole[:, :3], whole[:, 3:6], whole[:, 6].astype(np.uint8)
    return found


def errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Return MAE, RMSE and R^2 = 1 - sum (y - p)^2 / sum (y - mean y)^2; None where there is nothing to count."""
    if not truth.size:
        return {"mae": None, "rmse": None, "r2": None}
    residual = predicted - truth
    spread = float(np.square(truth - truth.mean()).sum())
    return {
        "mae": float(np.abs(residual).mean()),
        "rmse": float(np.sqrt(np.square(residual).mean())),
        "r2": 1.0 - float(np.square(residual).sum()) / spread if spread else None,
    }


def report_errors(
    found: Predictions,
    names: list[str],
    units: dict[str, str],
    training_mean: np.ndarray,
    reference_mae: dict[str, float],
) -> dict[str, Any]:
    """Return for each target its unit and test errors, the MAE of always guessing the training mean (forces: zero),
    and where a published MAE is known the deviation from it, (MAE - published) / published."""
    report = {}
    for place, (name, (unit, predicted, truth)) in enumerate(found.columns(names, units).items()):
        guess = training_mean[place] if place < len(names) else 0.0
        report[name] = {"unit": unit, **{f"test_{key}": value for key, value in errors(predicted, truth).items()}}
        report[name]["baseline_mae"] = float(np.abs(guess - truth).mean()) if truth.size else None
        if name in reference_mae and truth.size:
            published = reference_mae[name]
            report[name] |= {
                "reference_mae": published,
                "mae_deviation": (report[name]["test_mae"] - published) / published,
            }
    return report


def write_predictions(
    path: Path, found: Predictions, ids: np.ndarray, names: list[str], units: dict[str, str]
) -> None:
    """Write `ids`, and for each target `targets/<name>` and `predictions/<name>` with its unit."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["ids"] = ids[found.index]
        for name, (unit, predicted, truth) in found.columns(names, units).items():
            for kind, values in (("targets", truth), ("predictions", predicted)):
                file[f"{kind}/{name}"] = values
                file[f"{kind}/{name}"].attrs["unit"] = unit
        if found.forces is not None:
            file["atom_ptr"], file["z"] = found.atom_ptr, found.z
