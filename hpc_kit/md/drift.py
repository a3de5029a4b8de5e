"""What is said of the frames of a run: drift of the energy with its interval, temperature, momenta. The node side."""

from typing import Any

import numpy as np
from ase import Atoms, units
from scipy.stats import t as student

from hpc_kit.md.systems import Systems

LEAST_FRAMES = 10
SHORT_PS = 1.0  # a drift over less says little


def drift_of(time_ps: np.ndarray, total: np.ndarray, replica: np.ndarray, atoms: int) -> dict[str, Any] | None:
    """Return the drift of the total energy (eV) by linear fits: `value` meV/atom/ps, the mean over replicas; its 95 %
    `interval`, by Student's t over three replicas or more, else by leaving out tenths of the frames; `scatter`
    meV/atom, the standard deviation about the fits; `ps`, how long the fits are. None for too few frames."""
    slopes, rests, spans, parts = [], [], [], []
    for r in np.unique(replica):
        mine = replica == r
        x, y = time_ps[mine], total[mine] * 1000 / atoms
        if len(x) < LEAST_FRAMES:
            continue
        slopes.append(_slope(x, y))
        rests.append(np.std(y - y.mean() - slopes[-1] * (x - x.mean())))
        spans.append(np.ptp(x))
        parts.append((x, y))
    if not slopes:
        return None
    value = float(np.mean(slopes))
    if len(slopes) >= 3:
        half = student.ppf(0.975, len(slopes) - 1) * np.std(slopes, ddof=1) / np.sqrt(len(slopes))
    else:
        left_out = []
        for tenth in range(10):
            kept = []
            for x, y in parts:
                keep = np.arange(len(x)) * 10 // len(x) != tenth
                kept.append(_slope(x[keep], y[keep]))
            left_out.append(np.mean(kept))
        half = student.ppf(0.975, 9) * np.sqrt(9 / 10 * np.square(left_out - np.mean(left_out)).sum())
    return {
        "value": value,
        "interval": [value - float(half), value + float(half)],
        "scatter": float(np.mean(rests)),
        "ps": float(np.mean(spans)),
        "replicas": len(slopes),
    }


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / np.square(x).sum())


def measures_of(frames: np.ndarray, start: Atoms, timestep_fs: float) -> dict[str, Any]:
    """Return what frames [F] of one molecule say: drift, temperature K (mean and standard deviation over time and
    replicas), how far the centre of mass moved (Angstrom), the largest change of the angular momentum (of its unit
    u Angstrom²/fs, and none of what is periodic), the largest momentum (u Angstrom/fs)."""
    if not len(frames):
        return {"drift": None, "temperature": None, "frames": 0}
    time_ps = frames["step"] * timestep_fs / 1000
    total = frames["energy"] + frames["kinetic"]
    systems = Systems.of([start], len(frames))
    systems.pos, systems.momenta = frames["pos"].reshape(-1, 3), frames["momenta"].reshape(-1, 3)
    heat, centre, spin = systems.temperature(), systems.centre(), systems.angular_momentum() * units.fs
    moved, turned = 0.0, 0.0
    for r in np.unique(frames["replica"]):
        mine = frames["replica"] == r
        moved = max(moved, float(np.linalg.norm(centre[mine] - centre[mine][0], axis=1).max()))
        turned = max(turned, float(np.linalg.norm(spin[mine] - spin[mine][0], axis=1).max()))
    return {
        "drift": drift_of(time_ps, total, frames["replica"], len(start)),
        "temperature": {"mean": float(heat.mean()), "sd": float(heat.std())},
        "centre_moved": moved,
        "angular_momentum_changed": None if start.pbc.any() else turned,
        "momentum": float(np.linalg.norm(systems.sums(systems.momenta), axis=1).max() * units.fs),
        "frames": len(frames),
    }


def curve_of(frames: np.ndarray, timestep_fs: float, atoms: int, most: int = 200) -> dict[str, Any]:
    """Return the total energy from its start (meV/atom) of each replica over time (ps), at `most` times."""
    found = {}
    for r in np.unique(frames["replica"]):
        mine = frames[frames["replica"] == r]
        chosen = mine[np.unique(np.linspace(0, len(mine) - 1, min(most, len(mine))).astype(int))]
        total = chosen["energy"] + chosen["kinetic"]
        found[str(int(r))] = {
            "ps": [round(float(v), 6) for v in chosen["step"] * timestep_fs / 1000],
            "meV": [round(float(v), 5) for v in (total - total[0]) * 1000 / atoms],
        }
    return found
