"""CIF files: one crystal, with its symmetry expanded, or the reason why a graph of it would be wrong.

ASE parses the file; what its items mean is decided here. A file is refused where a site holds more than one element
or is not full, where the symmetry is in doubt, and where the atoms are not those that the file's own formula counts.
"""

import io
import re
import warnings
from collections import Counter
from math import gcd
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import atomic_numbers as ASE_NUMBERS
from ase.io.cif import parse_cif

from hpc_kit.data.graphs import closest
from hpc_kit.data.sources.atoms import element, element_of_label
from hpc_kit.data.sources.symmetry import Operations, check_fit, expand, listed_operations, named_operations
from hpc_kit.data.structures import RejectedError

FULL = 0.999  # an occupancy below this is partial; files write 1, 1.0 or 1.00(1)
# Sites of one crystal this close (Angstrom) stand for each other: X-ray diffraction finds O-H bonds of 0.6.
_DISORDER = 0.5
_UNKNOWN = (None, "", ".", "?")
_CELL = [f"_cell_{kind}" for kind in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")]
_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_OTHER_OPERATIONS = ("symop", "symmetry_equiv_pos", "_ssg_")  # of magnetic and modulated structures


def read_cif(content: bytes) -> Atoms:
    """Read the one crystal of a CIF file. Raises RejectedError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="Wrong number|Duplicated loop")  # ASE would leave the row out
        try:
            text = content.decode("utf-8", "replace")
            blocks = [_Items(block) for block in parse_cif(io.StringIO(text))]
        except Exception as error:  # ASE's parser raises what comes: RuntimeError, KeyError, AssertionError
            raise RejectedError(f"not a CIF file that ASE reads: {type(error).__name__}: {error}") from None
    blocks = [block for block in blocks if block.column("_atom_site_label", "_atom_site_type_symbol")]
    if len(blocks) != 1:
        raise RejectedError(f"{len(blocks)} structures in one CIF file; it must hold one")
    return _crystal(blocks[0])


class _Items:
    """The items of a data block by name: in lower case, with `_` for the `.` of newer dictionaries."""

    def __init__(self, block: Any):
        self._items = {name.lower().replace(".", "_"): value for name, value in block.items()}

    def names(self) -> list[str]:
        return list(self._items)

    def one(self, *names: str) -> Any:
        """Return the first of `names` that has a value, as text or number; None where none has."""
        for name in names:
            value = self._items.get(name)
            value = value[0] if isinstance(value, list) and value else value
            if value not in _UNKNOWN and value != []:
                return value.strip() if isinstance(value, str) else value
        return None

    def column(self, *names: str) -> list:
        """Return the first of `names` that the file has, as a list; [] where it has none."""
        found = next((self._items[name] for name in names if name in self._items), [])
        return found if isinstance(found, list) else [found]

    def number(self, name: str) -> float | None:
        value = self.one(name)
        if value is None or isinstance(value, (int, float)):
            return value
        raise RejectedError(f"{name} {value!r} is not a number")


def _crystal(items: _Items) -> Atoms:
    labels = [str(label) for label in items.column("_atom_site_label", "_atom_site_type_symbol")]
    symbols = _symbols(items, labels)
    _refuse_disorder(items, labels)
    lengths = [items.number(name) for name in _CELL]
    if None in lengths:
        raise RejectedError("a CIF file without a cell")
    cell = Cell.new(lengths).array
    if not abs(np.linalg.det(cell)) > 1e-3:
        raise RejectedError("periodic, with a cell of no volume")
    sites = _sites(items, labels, cell)
    found, faults = {}, {}
    for origin, operations in _operations(items, cell).items():
        atoms, fault = _expanded(items, labels, symbols, sites, operations, cell)
        if fault:
            faults[origin] = fault
        else:
            found[origin] = atoms
    if len(found) > 1:
        raise RejectedError(
            "its space group has two origins and nothing in the file says which is meant: add :1 or :2 to the symbol,"
            " or the symmetry operations"
        )
    if not found:
        raise RejectedError(next(iter(faults.values())))
    atoms = next(iter(found.values()))
    if (pair := closest(atoms.positions, cell, np.ones(3, dtype=bool), _DISORDER)) is not None:
        i, j, distance = pair
        names = " and ".join(repr(labels[atoms.arrays["site"][k]]) for k in (i, j))
        raise RejectedError(f"two atoms {distance:.2f} Angstrom apart ({names}): disorder, or a wrong symmetry")
    del atoms.arrays["site"]
    return atoms


def _symbols(items: _Items, labels: list[str]) -> list[str]:
    types = [str(value) for value in items.column("_atom_site_type_symbol")]
    if types and all(value not in _UNKNOWN for value in types):
        return [element(value) for value in types]
    return [element_of_label(label) for label in labels]


def _refuse_disorder(items: _Items, labels: list[str]) -> None:
    for label, value in zip(labels, items.column("_atom_site_occupancy"), strict=False):
        if value in (".", "?"):
            continue
        if not isinstance(value, (int, float)):
            raise RejectedError(f"occupancy {value!r} of site {label!r} is not a number")
        if value < FULL:
            raise RejectedError(f"partial occupancy: site {label!r} is occupied to {value:g}")
        if value > 2 - FULL:
            raise RejectedError(f"occupancy {value:g} of site {label!r} is more than 1")
    groups = [str(value) for value in items.column("_atom_site_disorder_group")]
    assemblies = [str(value) for value in items.column("_atom_site_disorder_assembly")] or [""] * len(groups)
    pairs = {pair for pair in zip(assemblies, groups, strict=False) if pair[1] not in (*_UNKNOWN, "0")}
    if any(group.startswith("-") for _, group in pairs):
        raise RejectedError("disorder about a symmetry element: a disorder group of the file is negative")
    if len({assembly for assembly, _ in pairs}) < len(pairs):
        raise RejectedError(f"disorder: {len(pairs)} disorder groups, of which an atom belongs to one at a time")


def _sites(items: _Items, labels: list[str], cell: np.ndarray) -> np.ndarray:
    """Return fractional coordinates [m, 3]."""
    columns = [items.column(f"_atom_site_fract_{axis}") for axis in "xyz"]
    cartesian = not any(columns)
    if cartesian:
        columns = [items.column(f"_atom_site_cartn_{axis}") for axis in "xyz"]
    if any(len(column) != len(labels) for column in columns):
        raise RejectedError("its sites have no coordinates")
    for label, *values in zip(labels, *columns, strict=True):
        for value in values:
            if not isinstance(value, (int, float)):
                raise RejectedError(f"coordinate {value!r} of site {label!r} is not a number")
    sites = np.array(columns, dtype=float).T
    return sites @ np.linalg.inv(cell) if cartesian else sites


def _operations(items: _Items, cell: np.ndarray) -> dict[str, Operations]:
    """Return what the file's symmetry can be: origin -> operations; one, but for groups of two origins."""
    listed = tuple(str(text) for text in items.column(*_OPERATIONS) if text not in _UNKNOWN)
    if listed:
        operations = listed_operations(listed)
        check_fit(operations, cell)
        return {"": operations}
    if other := next((n for n in items.names() if any(part in n for part in _OTHER_OPERATIONS)), None):
        raise RejectedError(f"{other}: symmetry of a magnetic or modulated structure, which is not read")
    hall = items.one("_space_group_name_hall", "_symmetry_space_group_name_hall")
    name = items.one("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m_full")
    number = items.one("_space_group_it_number", "_symmetry_int_tables_number")
    code = items.one("_space_group_it_coordinate_system_code", "_symmetry_space_group_setting")
    if not str(number or 0).isdigit():
        raise RejectedError(f"space group number {number!r} is not a number")
    if not (hall or name or number):
        return {"": listed_operations(("x,y,z",))}
    texts = (None if value is None else str(value) for value in (hall, name))
    return named_operations(*texts, int(number) if number else None, None if code is None else str(code), cell)


def _expanded(items, labels, symbols, sites, operations, cell) -> tuple[Atoms | None, str]:
    """Return the crystal and "", or None and what the file says otherwise."""
    try:
        owners, places = expand(sites, operations, cell)
        found = Counter(owners.tolist())
        for column in ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity"):
            _check_multiplicities(items.column(column), labels, found, len(operations[0]))
        _check_formula(items, Counter(symbols[site] for site in owners))
    except RejectedError as error:
        return None, str(error)
    numbers = [ASE_NUMBERS[symbols[site]] for site in owners]
    atoms = Atoms(numbers=numbers, positions=places @ cell, cell=cell, pbc=True)
    atoms.new_array("site", owners)
    return atoms, ""


def _check_multiplicities(stated: list, labels: list[str], found: Counter, order: int) -> None:
    """Raise RejectedError where a site has other images than the file says: their number, or, as SHELXL-97 writes
    it, how many operations leave the site where it is."""
    for site, value in enumerate(stated[: len(labels)]):
        if isinstance(value, int) and value not in (found[site], order // found[site]):
            raise RejectedError(f"site {labels[site]!r} has {found[site]} images in the cell, the file says {value}")


def _check_formula(items: _Items, found: Counter) -> None:
    """Raise RejectedError where the cell does not hold what the formula says.

    That is Z formulas; or one, as pymatgen writes it, where Z divides the formula. Without Z the ratio must be right.
    """
    formula = _formula(items.one("_chemical_formula_sum"))
    if not formula:
        return
    units = items.number("_cell_formula_units_z")
    written = " ".join(f"{symbol}{count:g}" for symbol, count in sorted(formula.items()))
    held = " ".join(f"{symbol}{count}" for symbol, count in sorted(found.items()))
    if units is None:
        some, other = next(iter(formula.items()))
        right = set(formula) == set(found) and all(
            abs(found[symbol] * other - found[some] * count) < 0.01 * other for symbol, count in formula.items()
        )
        if not right:
            raise RejectedError(f"the cell holds {held!r}, no multiple of the file's formula {written!r}")
        return
    right = _equal(found, formula, units)
    if not right and all(float(count).is_integer() for count in formula.values()):
        divisor = gcd(*(int(count) for count in formula.values()))
        right = divisor % units == 0 and _equal(found, formula, 1)
    if not right:
        raise RejectedError(f"the cell holds {held!r}; the file's formula is {written!r} with Z = {units:g}")


def _equal(found: Counter, formula: Counter, units: float) -> bool:
    return set(found) == set(formula) and all(
        abs(found[symbol] - count * units) < 0.01 for symbol, count in formula.items()
    )


def _formula(text: Any) -> Counter:
    """Return element -> number in the formula; empty where it is not given or not such as `C2 H6 O`."""
    words = re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", str(text or ""))
    if "".join(symbol + number for symbol, number in words) != re.sub(r"\s", "", str(text or "")):
        return Counter()
    found: Counter = Counter()
    for symbol, number in words:
        try:
            found[element(symbol)] += float(number or 1)
        except (RejectedError, ValueError):
            return Counter()
    return Counter({symbol: count for symbol, count in found.items() if count})
