"""From what ASE reads to a Structure, and a fast reader of CIF files that refuses disorder."""

import io
import warnings

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers as ASE_NUMBERS
from ase.io.cif import CIFBlock, parse_cif

from hpc_kit.data.structures import RejectedError, Structure

_FULL = 0.999  # an occupancy below this is partial; files write 1, 1.0 or 1.00(1)


def atomic_numbers(symbols: list[str]) -> np.ndarray:
    """Return the atomic numbers of element symbols, uint8 [n]. Raises RejectedError for an unknown symbol."""
    unknown = [symbol for symbol in symbols if ASE_NUMBERS.get(symbol, 0) == 0]
    if unknown:
        raise RejectedError(f"unknown element symbol {unknown[0]!r}")
    return np.array([ASE_NUMBERS[symbol] for symbol in symbols], dtype=np.uint8)


def from_ase(id: str, atoms: Atoms, targets: dict[str, float], forces: np.ndarray | None = None) -> Structure:
    """Return ASE's `atoms` as a Structure; lengths are in Angstrom on both sides."""
    return Structure(
        id=id,
        z=atoms.numbers.astype(np.uint8),
        pos=np.array(atoms.positions),
        targets=targets,
        cell=np.array(atoms.cell),
        pbc=np.array(atoms.pbc),
        forces=forces,
    )


def read_cif(content: bytes) -> Atoms:
    """Read the one crystal of a CIF file. Raises RejectedError.

    A site that is occupied in part is refused: a graph has no half atoms. ASE expands the symmetry; in P1, which is
    what MOF collections hold, there is none to expand and the sites are taken as they are: milliseconds, not seconds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unusual space group settings, which ASE names once a file
        try:
            blocks = [b for b in parse_cif(io.StringIO(content.decode("utf-8", "replace"))) if b.has_structure()]
            if len(blocks) != 1:
                raise RejectedError(f"{len(blocks)} structures in one CIF file; it must hold one")
            block = blocks[0]
            _refuse_disorder(block)
            if len(block.get_spacegroup(True).get_symop()) == 1:
                atoms = block.get_unsymmetrized_structure()
                atoms.pbc = True
                return atoms
            return block.get_atoms()
        except RejectedError:
            raise
        except Exception as error:  # ASE's parser raises what comes: RuntimeError, KeyError, AssertionError
            raise RejectedError(f"not a CIF file that ASE reads: {type(error).__name__}: {error}") from None


def _refuse_disorder(block: CIFBlock) -> None:
    for value in block.get("_atom_site_occupancy") or []:
        if isinstance(value, (int, float)) and value < _FULL:
            raise RejectedError(f"partial occupancy: a site is occupied to {value:g}")
