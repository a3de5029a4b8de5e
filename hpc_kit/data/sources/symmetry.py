"""Space groups: symmetry operations as a CIF file lists them or names them, and what they make of its sites.

Operations are (rotations [n, 3, 3] int, translations [n, 3]) on fractional coordinates. What a name stands
for is read from spglib's table of the 530 settings. Not for: finding a symmetry that a file does not state.
"""

import functools
import re
import warnings
from fractions import Fraction

import numpy as np

from hpc_kit.data.structures import RejectedError

Operations = tuple[np.ndarray, np.ndarray]

# Images of a site this close (Angstrom) are one atom: files round coordinates, 1/3 to 0.33 in the coarsest.
SAME_SITE = 0.1
# How much lengths may differ, as a part of the longest, between a cell and its image: of operations that a file
# states without doubt, and of those that one of several settings would give.
_MISFIT, _MISFIT_OF_A_GUESS = 0.05, 0.02
_TERM = re.compile(r"([+-]?)(?:(\d+/\d+|\d+\.?\d*|\.\d+)\*?)?([xyz]?)")
# Names before 1992 of the settings abc, ba-c, cab, -cba, bca, a-cb of the five groups whose names now have an e.
_WITHOUT_E = {
    39: "Abm2 Bma2 B2cm C2mb Cm2a Ac2m",
    41: "Aba2 Bba2 B2cb C2cb Cc2a Ac2a",
    64: "Cmca Ccmb Abma Acam Bbcm Bmab",
    67: "Cmma Cmmb Abmm Acmm Bmcm Bmam",
    68: "Ccca Cccb Abaa Acaa Bbcb Bbab",
}
_AXES = ("", "ba-c", "cab", "-cba", "bca", "a-cb")
_ORIGINS = {"s": "1", "z": "2"}  # as the ICSD writes them


@functools.lru_cache(maxsize=256)
def listed_operations(texts: tuple[str, ...]) -> Operations:
    """Parse operations such as `-y, x-y, z+1/3`. Raises RejectedError for a text that is none, and for no group."""
    parsed = dict.fromkeys(map(_parse, texts))
    rotations = np.array([rows for rows, _ in parsed])
    translations = np.array([shift for _, shift in parsed])
    if (np.abs(np.linalg.det(rotations).round()) != 1).any():
        raise RejectedError("a symmetry operation of the file does not keep the volume")
    products = np.einsum("aij,bjk->abik", rotations, rotations)
    shifts = np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]
    known = {_key(*operation) for operation in zip(rotations, translations, strict=True)}
    made = zip(products.reshape(-1, 3, 3), shifts.reshape(-1, 3), strict=True)
    if len(parsed) > 192 or any(_key(*operation) not in known for operation in made):
        raise RejectedError("the symmetry operations of the file are no group: some are missing or wrong")
    return rotations, translations


def _key(rotation: np.ndarray, translation: np.ndarray) -> tuple[int, ...]:
    return (*rotation.ravel().tolist(), *((translation * 1000).round().astype(int) % 1000).tolist())


def _parse(text: str) -> tuple[tuple, tuple]:
    rows, shift = [], []
    parts = text.replace(" ", "").strip("'\"").lower().split(",")
    for part in parts:
        row, constant, end = [0, 0, 0], Fraction(0), 0
        while end < len(part):
            term = _TERM.match(part, end)
            sign, number, axis = term.groups()
            if not (number or axis):
                break
            value = Fraction(number or 1) * (-1 if sign == "-" else 1)
            if not axis:
                constant += value
            elif value.denominator == 1:
                row["xyz".index(axis)] += int(value)
            else:
                break
            end = term.end()
        if end < len(part) or not part:
            raise RejectedError(f"symmetry operation {text!r}: not one such as x,-y,z+1/2")
        nearest = Fraction(round(constant * 24), 24)  # 0.3333 stands for 1/3
        rows.append(tuple(row))
        shift.append(float((nearest if abs(constant - nearest) < Fraction(2, 1000) else constant) % 1))
    if len(rows) != 3:
        raise RejectedError(f"symmetry operation {text!r}: not one such as x,-y,z+1/2")
    return tuple(rows), tuple(shift)


def misfit(operations: Operations, cell: np.ndarray) -> float:
    """Return by how much the operations change the metric of `cell` at most, as a part of its longest vector's."""
    metric = cell @ cell.T
    rotations = operations[0].astype(float)
    images = np.einsum("nji,jk,nkl->nil", rotations, metric, rotations)
    return float(np.abs(images - metric).max() / np.diag(metric).max())


def check_fit(operations: Operations, cell: np.ndarray) -> None:
    """Raise RejectedError where the operations are not of a lattice such as `cell`."""
    if misfit(operations, cell) > _MISFIT:
        raise RejectedError("the symmetry of the file does not fit its cell: other axes, or another cell")


def named_operations(
    hall: str | None, name: str | None, number: int | None, code: str | None, cell: np.ndarray
) -> dict[str, Operations]:
    """Return what a Hall symbol, a Hermann-Mauguin symbol or a number can stand for in `cell`: origin -> operations.

    One entry, under "", where there is no doubt; "1" and "2" where the group has two origins and nothing says which.
    code: the setting, such as 2, h, r, b1 or cab, which `name` may hold as well, behind a colon. A short name means
    the setting that the International Tables put first. Raises RejectedError for what the table does not hold, and
    for names that contradict each other or the cell.
    """
    stated = [text for text in (hall, name, number and f"number {number}") if text]
    said = " with ".join(map(repr, stated[:1] if hall else stated))
    table = _table()
    if hall:
        found = [entry for entry in table if entry["hall"] == _spaced(hall)]
        if not found:
            raise RejectedError(f"Hall symbol {hall!r} is not in spglib's table: write out the symmetry operations")
    else:
        squeezed, own_code = _split(name or "")
        code = (own_code or code or "").lower()
        found = [e for e in table if (squeezed in e["names"] if name else e["number"] == number)]
        if not found:
            raise RejectedError(f"space group {said} is not in spglib's table: write out the symmetry operations")
    if number and not any(entry["number"] == number for entry in found):
        raise RejectedError(f"space group {(hall or name)!r} is number {found[0]['number']}, the file says {number}")
    found = [entry for entry in found if not number or entry["number"] == number]
    if not hall and code:
        found = [entry for entry in found if code in entry["codes"]]
        if not found:
            raise RejectedError(f"space group {said}: spglib's table has no setting {code!r} of it")
    limit = _MISFIT if len(found) == 1 else _MISFIT_OF_A_GUESS
    fitting = [entry for entry in found if misfit(_operations(entry["index"]), cell) <= limit]
    if not fitting:
        raise RejectedError(f"space group {said} does not fit the cell: other axes, or another cell")
    first: dict[str, int] = {}
    for entry in fitting:
        first.setdefault(entry["origin"], entry["index"])
    if len(first) == 1:
        first = {"": next(iter(first.values()))}
    return {origin: _operations(index) for origin, index in first.items()}


def _split(name: str) -> tuple[str, str]:
    """Return a Hermann-Mauguin symbol without blanks, and the setting that it names: 1, 2, h, r, b1, cab or ""."""
    symbol, _, code = name.partition(":")
    words = symbol.split()
    if not code and len(words) > 1 and words[-1].lower() in ("s", "z", "h", "r"):
        symbol, code = " ".join(words[:-1]), words[-1]
    squeezed = _squeezed(symbol)
    if not code and squeezed.startswith("r") and squeezed[-1] in "hr" and len(squeezed) > 1:
        squeezed, code = squeezed[:-1], squeezed[-1]
    code = code.strip().lower()
    return squeezed, _ORIGINS.get(code, code)


def _spaced(hall: str) -> str:
    """Return a Hall symbol with one blank between its parts, on which its meaning hangs: P 3 2 is not P 32."""
    return " ".join(hall.lower().replace("_", " ").split())


def _squeezed(text: str) -> str:
    return "".join(_squeezed_words(text))


def _squeezed_words(text: str) -> list[str]:
    return re.sub(r"[_()~]", "", text).lower().split()


@functools.cache
def _table() -> list[dict]:
    """Return spglib's table of settings: index, number, Hall symbol, names, setting codes and origin of each."""
    try:
        import spglib
    except ImportError:
        raise RejectedError(
            "names its space group and lists no symmetry operations; to look them up, pip install spglib"
        ) from None
    table: list[dict] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its way to raise errors will change
        kinds = [spglib.get_spacegroup_type(index) for index in range(1, 531)]
    for index, kind in enumerate(kinds, 1):
        choice = kind.choice.lower()
        parts = [part.strip() for part in kind.international.split("=")]
        first = not table or table[-1]["number"] != kind.number
        # The first of several parts is the short symbol of the first setting; it stands beside all others as well.
        names = {_squeezed(part) for part in (parts if first or len(parts) == 1 else parts[1:])}
        names.add(_squeezed(kind.international_full))
        if 3 <= kind.number <= 15:
            names.add("".join(word for word in _squeezed_words(kind.international_full) if word != "1"))
        if kind.number >= 195:
            names |= {name.replace("-3", "3") for name in names}
        axes = choice.lstrip("12")
        origin = choice.removesuffix(axes)
        if kind.number in _WITHOUT_E:
            names.add(_WITHOUT_E[kind.number].split()[_AXES.index(axes)].lower())
        codes = {choice or "abc", origin, origin + (axes or "abc"), {"h": "1", "r": "2"}.get(choice, "")}
        if first and not origin:
            codes.add("1")
        table.append(
            {
                "index": index,
                "number": kind.number,
                "hall": _spaced(kind.hall_symbol),
                "names": names,
                "codes": codes - {""},
                "origin": origin,
            }
        )
    return table


@functools.lru_cache(maxsize=64)
def _operations(index: int) -> Operations:
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spglib.get_symmetry_from_database(index)
    return np.array(found["rotations"], dtype=int), np.array(found["translations"], dtype=float)


def expand(sites: np.ndarray, operations: Operations, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (site of each atom [n], fractional coordinates [n, 3]) of all atoms in the cell.

    sites: [m, 3] fractional. The images of a site that are SAME_SITE of each other are one atom. Raises RejectedError
    where a site lies so near a symmetry element that its images cannot be counted.
    """
    rotations, translations = operations
    if len(rotations) == 1:
        return np.arange(len(sites)), sites
    images = np.einsum("nij,mj->mni", rotations, sites) + translations
    images -= np.floor(images)
    owners, places = [], []
    for site, points in enumerate(images):
        apart = points[:, None] - points
        apart = np.linalg.norm((apart - apart.round()) @ cell, axis=-1)
        kept = np.flatnonzero((apart < SAME_SITE).argmax(axis=1) == np.arange(len(points)))
        if len(points) % len(kept):
            raise RejectedError(f"site {site + 1} lies too near a symmetry element: its {len(kept)} images overlap")
        owners += [site] * len(kept)
        places.append(points[kept])
    return np.array(owners), np.concatenate(places)
