"""From what others write of atoms to a Structure: one rule for the names of elements in all formats."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers as ASE_NUMBERS

from hpc_kit.data.structures import RejectedError, Structure

# Deuterium and tritium are hydrogen: their chemistry, and what is predicted here, is the same. ASE's readers look
# names up in this table and would fail at these two.
ASE_NUMBERS |= {"D": 1, "T": 1}
# Behind a symbol may stand a charge or the number of a site: Fe3+, Fe+3, Fe2.5+, O2-, Cl-, C1.
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(\d+|\d*\.?\d*[+-]|[+-]\d+)?")

_LIKE_A_SYMBOL = re.compile(r"[A-Za-z]{1,2}(?![a-z])\S{0,40}")


def element(text: str) -> str:
    """Return the symbol of the element that `text` names in a column of elements, H for D and T.

    A charge or a number behind it is left out; the case of its letters does not matter. Raises RejectedError for
    what is no element, and for a site that holds several.
    """
    match = _SYMBOL.fullmatch(text.strip())
    symbol = match.group(1).capitalize() if match else ""
    if ASE_NUMBERS.get(symbol, 0):
        return "H" if ASE_NUMBERS[symbol] == 1 else symbol
    parts = re.findall(r"[A-Z][a-z]?", text)
    if len(parts) > 1 and all(ASE_NUMBERS.get(part, 0) for part in parts) or re.search(r"\d\.\d|[/,]", text):
        raise RejectedError(f"{text!r} is not one element: a mixed or partly occupied site, and a graph has none")
    raise RejectedError(f"unknown element symbol {text!r}")


def element_of_label(label: str) -> str:
    """Return the symbol of the element that the label of a site begins with, such as C12A, Fe1 or OW1.

    Raises RejectedError where it begins with none, and where capitals leave two readings: CA1 is carbon or calcium.
    """
    match = re.match(r"[A-Za-z]{1,2}", label.strip())
    letters = match.group() if match else ""
    long, short = letters.capitalize(), letters[:1].upper()
    known = [symbol for symbol in dict.fromkeys((long, short)) if ASE_NUMBERS.get(symbol, 0)]
    if len(known) == 2 and letters != long:
        raise RejectedError(f"site {label!r} may be {short} or {long}: add the column _atom_site_type_symbol")
    if not known:
        raise RejectedError(f"site {label!r} begins with no element symbol")
    return "H" if ASE_NUMBERS[known[0]] == 1 else known[0]


def atomic_numbers(symbols: list[str]) -> np.ndarray:
    """Return the atomic numbers of element symbols, uint8 [n]. Raises RejectedError for an unknown symbol."""
    return np.array([ASE_NUMBERS[element(symbol)] for symbol in symbols], dtype=np.uint8)


def with_element_names(read: Callable[[], Any]) -> Any:
    """Return read(), a call of one of ASE's readers, with the names of elements that `element` understands.

    A reader stops at a name that is not in ASE's table: it is put there and the reader starts again.
    """
    while True:
        try:
            return read()
        except KeyError as error:
            name = error.args[0] if error.args else None
            if not isinstance(name, str) or name in ASE_NUMBERS or not _LIKE_A_SYMBOL.fullmatch(name):
                raise  # not a name of an element, but of a column
            ASE_NUMBERS[name] = ASE_NUMBERS[element(name)]


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
