"""Forces on many systems: of a trained model in one call, or of an ASE calculator (GFN2-xTB) one by one. The node
side."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator

from hpc_kit.data.batches import GraphBatch
from hpc_kit.data.structures import RejectedError
from hpc_kit.md.recorded import recorded
from hpc_kit.md.systems import Systems
from hpc_kit.predict.calculator import energy_of
from hpc_kit.predict.neighbours import Neighbours
from hpc_kit.predict.predictor import Predictor
from hpc_kit.spec.errors import InputError

RECORD_AFTER = 300  # steps of the same systems after which a model's operations are recorded
RECORDED = ("torchmd_et", "schnet", "physnet")  # models without a branch on values, which a recording would not see
MOST_ALL_PAIRS = 64  # atoms of a molecule up to which all its pairs are looked at, in place of a neighbour list


class ModelForces:
    """Energies and forces of a trained model for all systems in one batch; of an ensemble their means.

    Molecules of at most MOST_ALL_PAIRS atoms have all their pairs looked at in each step; larger ones, crystals and
    graphs with max_neighbors have a neighbour list with a `skin` (Angstrom) each. On a CPU the operations of RECORDED
    models, where all pairs are within the cutoff, are recorded after `record_after` steps (None: never) and repeated
    from there on.
    Positions and sums are float64; the model computes in its own precision, around each system's centre. Raises
    InputError where the model has no energy whose gradient is a force, or is not for these elements.
    """

    def __init__(
        self,
        predictor: Predictor,
        skin: float = 0.5,
        target: str | None = None,
        unseen: bool = False,
        record_after: int | None = RECORD_AFTER,
    ):
        self.predictor, self._skin, self._unseen = predictor, skin, unseen
        self.target = energy_of(predictor, target)
        self._place = list(predictor.units).index(self.target)
        self._per_atom = predictor.units[self.target] == "eV/atom"
        self._of: tuple = ()
        charged = getattr(predictor.spec, "electrostatics", False)
        able = predictor.device.type == "cpu" and predictor.spec.name in RECORDED and not charged
        self._record_after = record_after if able else None
        self._recorded: list | None = None

    def __call__(self, systems: Systems) -> tuple[np.ndarray, np.ndarray]:
        """Return (energies [S] eV, forces [N, 3] eV/Angstrom); NaN for a system that has no graph: with a position
        that is not finite, or atoms on top of each other."""
        values, forces = self._derived(self.batch(systems))
        energies, forces = values[:, :, self._place].mean(axis=0), forces.mean(axis=0)
        if self._per_atom:
            energies, forces = energies * systems.counts, forces * systems.counts[self._owner][:, None]
        if self._lost.any():
            energies, forces = energies.copy(), forces.copy()
            energies[self._lost], forces[self._lost[self._owner]] = np.nan, np.nan
        return energies, forces

    def _derived(self, batch: GraphBatch) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions [M, G, T] and forces [M, N, 3] of each model."""
        if self._lost.any() or not (self._record_after and self._pairs is not None and batch.src is self._whole[0]):
            return self.predictor.of_batch(batch, self.target)[:2]
        self._steps += 1
        if self._steps == self._record_after:
            self._recorded = [recorded(one, batch, self._place) for one in self.predictor.objectives]
        if self._recorded is None:
            return self.predictor.of_batch(batch, self.target)[:2]
        found = zip(*(call(batch.pos) for call in self._recorded), strict=True)
        return tuple(torch.stack(each).numpy() for each in found)

    @property
    def is_recorded(self) -> bool:
        """Whether the systems of now are moved by recorded operations."""
        return self._recorded is not None

    def features(self, systems: Systems) -> np.ndarray:
        """Return [N, F]: what the last layer of the model (of an ensemble, of the first) sees of each atom. Raises
        InputError where a module of the user's own does not offer that."""
        batch = self.predictor.ready(self.batch(systems))
        with torch.no_grad():
            embed, _ = self.predictor.members[0].model.parts(batch)
            return embed(batch).double().cpu().numpy()

    def forget(self) -> None:
        """Do nothing: each step depends on the positions alone."""

    def batch(self, systems: Systems) -> GraphBatch:
        """Return the graphs of all systems as one batch."""
        self._prepare(systems)
        pos = systems.pos
        self._lost = ~np.isfinite(systems.sums(np.abs(pos).sum(axis=1)))
        if self._lost.any():
            pos = np.where(self._lost[self._owner][:, None], 0.0, pos)
        src, dst, shift, edge_ptr = self._edges(systems, pos)
        middle = systems.sums(pos) / systems.counts[:, None]
        pos = torch.from_numpy(pos - middle[self._owner]).to(self.predictor.dtype)
        return GraphBatch(
            z=self._z,
            pos=pos,
            cell=self._cell,
            src=src,
            dst=dst,
            shift=shift,
            atom_ptr=self._atom_ptr,
            edge_ptr=edge_ptr,
            targets=self._targets,
        )

    def _prepare(self, systems: Systems) -> None:
        """Keep what does not change while the same systems move."""
        key = (systems.z.tobytes(), systems.ptr.tobytes(), systems.cell.tobytes(), systems.pbc.tobytes())
        if key == self._of:
            return
        for system in range(len(systems)):
            part = slice(systems.ptr[system], systems.ptr[system + 1])
            reason, _ = self.predictor.reason_against(systems.z[part], systems.pbc[system], self._unseen)
            if reason:
                formula = Atoms(systems.z[part]).get_chemical_formula()
                raise InputError(f"{formula}: {reason.replace('--allow-unseen', 'allow_unseen: true')}")
        self._steps, self._recorded = 0, None
        device = self.predictor.device
        self._owner = systems.system_of_atom
        self._z, self._atom_ptr = (torch.from_numpy(a.copy()).to(device) for a in (systems.z, systems.ptr))
        self._cell = torch.from_numpy(systems.cell).to(self.predictor.dtype).to(device)
        self._targets = torch.zeros(len(systems), len(self.predictor.units), dtype=torch.float64, device=device)
        rule = self.predictor.graph
        few = systems.counts.max() <= MOST_ALL_PAIRS and not systems.pbc.any()
        self._pairs = None
        if few and rule.max_neighbors is None and rule.rule != "alignn":
            self._pairs = all_pairs(systems.counts)
            src, dst, ptr = self._pairs
            self._whole = tuple(torch.from_numpy(a).to(device) for a in (src, dst, ptr))
        self._lists = [Neighbours(rule, self._skin) for _ in range(len(systems))]
        self._of = key

    def _edges(self, systems: Systems, pos: np.ndarray) -> tuple:
        device = self.predictor.device
        if self._pairs is not None:
            src, dst, ptr = self._pairs
            near = np.square(pos[src] - pos[dst]).sum(axis=1) < self.predictor.graph.cutoff**2
            if near.all():
                src, dst, ptr = self._whole
                return src, dst, None, ptr
            before = np.concatenate([[0], np.cumsum(near)])
            found = (src[near], dst[near], before[ptr])
            src, dst, ptr = (torch.from_numpy(a).to(device) for a in found)
            return src, dst, None, ptr
        parts, counts = [], []
        for system, neighbours in enumerate(self._lists):
            part = slice(systems.ptr[system], systems.ptr[system + 1])
            cell, pbc = systems.cell[system], systems.pbc[system]
            try:
                src, dst, shift = neighbours.edges(systems.z[part], pos[part], cell, pbc)
            except RejectedError:
                self._lost[system] = True
                src, dst, shift = _NO_EDGES
            parts.append((src + part.start, dst + part.start, shift))
            counts.append(len(src))
        src, dst, shift = (torch.from_numpy(np.concatenate(a)).to(device) for a in zip(*parts, strict=True))
        ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(device)
        return src, dst, shift.to(torch.int8) if systems.pbc.any() else None, ptr


def all_pairs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """counts [S] atoms -> src, dst [E] of all pairs within each system, sorted by dst and src, and edge_ptr [S+1]."""
    src, dst, start = [], [], 0
    for n in counts.tolist():
        first, second = np.nonzero(~np.eye(n, dtype=bool))
        dst.append(first + start)
        src.append(second + start)
        start += n
    ptr = np.concatenate([[0], np.cumsum(counts * (counts - 1))]).astype(np.int64)
    return np.concatenate(src), np.concatenate(dst), ptr


_NO_EDGES = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)


class CalculatorForces:
    """Energies and forces of ASE calculators, one for each system, on `threads` threads.

    make: returns a new calculator. A calculation that fails gives NaN, which the guard takes for the end of that
    replica.
    """

    def __init__(self, make: Callable[[], Calculator], threads: int = 1):
        self._make, self._threads, self._of = make, threads, ()
        self._atoms: list[Atoms] = []

    def forget(self) -> None:
        """Begin anew at the next step: a calculator starts from what it found last (the electron density), and a run
        that goes on from a file has none of that."""
        self._of = ()

    def __call__(self, systems: Systems) -> tuple[np.ndarray, np.ndarray]:
        """Return (energies [S] eV, forces [N, 3] eV/Angstrom)."""
        key = (systems.molecule.tobytes(), systems.replica.tobytes())
        if key != self._of:
            self._atoms, self._of = [systems.atoms(i) for i in range(len(systems))], key
            for atoms in self._atoms:
                atoms.calc = self._make()
        for i, atoms in enumerate(self._atoms):
            atoms.positions = systems.pos[systems.ptr[i] : systems.ptr[i + 1]]
        if self._threads > 1 and len(systems) > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                found = list(pool.map(_calculate, self._atoms))
        else:
            found = [_calculate(atoms) for atoms in self._atoms]
        return np.array([energy for energy, _ in found]), np.concatenate([forces for _, forces in found])


def _calculate(atoms: Atoms) -> tuple[float, np.ndarray]:
    try:
        forces = np.array(atoms.get_forces(), dtype=np.float64)
        return float(atoms.get_potential_energy()), forces
    except (CalculationFailed, RuntimeError):
        return np.nan, np.full((len(atoms), 3), np.nan)


def xtb_forces(threads: int = 1) -> CalculatorForces:
    """Return GFN2-xTB (Bannwarth et al. 2019, doi 10.1021/acs.jctc.8b01176) by tblite. Raises InputError without
    it."""
    try:
        from tblite.ase import TBLite
    except ImportError:
        raise InputError("calculator xtb needs tblite: pip install 'hpc_kit[xtb]'") from None
    return CalculatorForces(lambda: TBLite(method="GFN2-xTB", verbosity=0), threads)
