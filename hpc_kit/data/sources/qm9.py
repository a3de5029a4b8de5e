"""QM9: 133,885 organic molecules of C, H, N, O, F with 15 properties at B3LYP/6-31G(2df,p).

Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014), doi 10.1038/sdata.2014.22; CC0. Read from the
installed package qm9pack, or from `path`: the published archive dsgdb9nsd.xyz.tar.bz2 or a folder of its .xyz
files, PyTorch Geometric's raw folder (gdb9.sdf, gdb9.sdf.csv), or its processed data_v3.pt.

Molecules are known by the number N (1 to 133885) that the authors gave them, as `gdb_N`, never by their place in
a file: the two differ as soon as a molecule is left out (dimenet issue 24, schnetpack issue 222).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.manifest import Target
from hpc_kit.data.sources import archives, qm9_files
from hpc_kit.data.sources import options as opt
from hpc_kit.data.sources.atoms import atomic_numbers
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.data.units import HARTREE
from hpc_kit.spec.errors import InputError

OPTIONS = {
    "uncharacterized": "a file of the molecules to leave out; default: the 3,054 that QM9's authors list",
    "keep_uncharacterized": "true keeps them",
    **archives.OPTIONS,
}
# name: (factor to the unit, unit, description), in the order in which QM9's own .xyz files write them.
PROPERTIES = {
    "rot_a": (1.0, "GHz", "rotational constant A"),
    "rot_b": (1.0, "GHz", "rotational constant B"),
    "rot_c": (1.0, "GHz", "rotational constant C"),
    "mu": (1.0, "D", "dipole moment"),
    "alpha": (1.0, "bohr^3", "isotropic polarizability"),
    "homo": (HARTREE, "eV", "energy of the highest occupied molecular orbital"),
    "lumo": (HARTREE, "eV", "energy of the lowest unoccupied molecular orbital"),
    "gap": (HARTREE, "eV", "gap between HOMO and LUMO"),
    "r2": (1.0, "bohr^2", "electronic spatial extent"),
    "zpve": (HARTREE, "eV", "zero-point vibrational energy"),
    "u0": (HARTREE, "eV", "internal energy at 0 K"),
    "u298": (HARTREE, "eV", "internal energy at 298.15 K"),
    "h298": (HARTREE, "eV", "enthalpy at 298.15 K"),
    "g298": (HARTREE, "eV", "free energy at 298.15 K"),
    "cv": (1.0, "cal/(mol K)", "heat capacity at 298.15 K"),
}
# Energies of the free atoms in hartree for H, C, N, O, F: atomref.txt of QM9, doi 10.6084/m9.figshare.1057643.
ELEMENTS = (1, 6, 7, 8, 9)
ATOM_ENERGIES = {
    "u0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "u298": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "h298": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "g298": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
}
MOLECULES = 133_885


class QM9:
    """QM9 in one of its forms: `read` and `parse` are that form's pair in qm9_files.py, `drop` what to leave out."""

    name = "qm9"
    splits: dict[str, dict[str, list[str]]] = {}
    targets = {name: Target(unit=unit, description=text) for name, (_, unit, text) in PROPERTIES.items()} | {
        f"{name}_atom": Target(
            unit="eV", description=f"{PROPERTIES[name][2]} less that of the free atoms: negative where bound"
        )
        for name in ATOM_ENERGIES
    }

    def __init__(self, place: Path, read: Callable, parse: Callable, drop: frozenset[int], origin: dict[str, Any]):
        self.place, self.read, self.parse, self.drop, self.origin = place, read, parse, drop, origin

    def records(self) -> Iterator[tuple[str, Any]]:
        for number, raw in self.read(self.place):
            if not 1 <= number <= MOLECULES:
                raise InputError(f"{self.place}: molecule {number}: QM9 counts from 1 to {MOLECULES}")
            if number not in self.drop:
                yield f"gdb_{number}", raw

    def convert(self, id: str, raw: Any) -> Structure:
        try:
            symbols, pos, values, smiles = self.parse(raw)
            pos = np.array(pos, dtype=float).reshape(-1, 3)
        except (ValueError, IndexError, KeyError) as error:
            raise RejectedError(f"record cannot be read: {error}") from None
        if len(pos) != len(symbols) or len(values) != len(PROPERTIES):
            raise RejectedError(f"{len(symbols)} elements, {len(pos)} positions, {len(values)} properties")
        z = atomic_numbers(symbols)
        if not np.isin(z, ELEMENTS).all():
            raise RejectedError("an element other than H, C, N, O, F: not a molecule of QM9")
        return Structure(id=id, z=z, pos=pos, targets=_targets(z, values), smiles=smiles)


def _targets(z: np.ndarray, values: list[float]) -> dict[str, float]:
    targets = {name: v * factor for (name, (factor, _, _)), v in zip(PROPERTIES.items(), values, strict=True)}
    counts = [int((z == element).sum()) for element in ELEMENTS]
    published = dict(zip(PROPERTIES, values, strict=True))
    for name, energies in ATOM_ENERGIES.items():
        free = sum(count * energy for count, energy in zip(counts, energies, strict=True))
        targets[f"{name}_atom"] = (published[name] - free) * HARTREE
    return targets


def open_source(path: Path | None, options: dict[str, str]) -> QM9:
    """Open QM9; see the module's header for what `path` may be."""
    keep = opt.yes(options, "keep_uncharacterized")
    if path is None:
        place, origin_file = opt.installed("qm9pack", "qm9pack/data")
        read, parse = qm9_files.read_qm9pack, qm9_files.parse_qm9pack
    else:
        place = opt.existing(path, "qm9", "dsgdb9nsd.xyz.tar.bz2, a folder of .xyz files, or PyG's raw folder")
        read, parse = qm9_files.form_of(place, archives.bounds(options))
        origin_file = place.name
    without = read in (qm9_files.read_qm9pack, qm9_files.read_pyg)
    if keep and without:
        raise InputError(
            f"option keep_uncharacterized=true: {origin_file} does not hold the uncharacterised molecules; read"
            " dsgdb9nsd.xyz.tar.bz2 or gdb9.sdf"
        )
    if keep and "uncharacterized" in options:
        raise InputError("options uncharacterized and keep_uncharacterized=true exclude each other: give one")
    listed = opt.file(options, "uncharacterized", place if place.is_dir() else place.parent)
    origin = {
        "dataset": "QM9",
        "doi": "10.1038/sdata.2014.22",
        "licence": "CC0",
        "from": origin_file,
        "uncharacterized": "kept" if keep else f"left out as listed in {listed.name}" if listed else "left out",
    }
    if read is qm9_files.read_pyg:
        origin["precision"] = "float32, as PyTorch Geometric stores it"
    drop = frozenset() if keep else qm9_files.uncharacterized(listed)
    return QM9(place, read, parse, drop, origin)
