"""A map of one structure as a picture, SVG or PNG: RDKit's drawing in the plane with coloured atoms and bonds, or a
projection of the positions where no bonds are known; with scale and unit.

Not for: the page's own view in three dimensions (page.py, template/viewer.js).
"""

import importlib.util
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from hpc_kit.spec.errors import InputError

WIDTH, PANEL, FOOTER = 360, 300, 74
MOST_ATOMS = 120  # beyond, bonds are not searched for: a drawing of them says nothing
ITERATIONS = 20000  # of RDKit's search for bond orders, which may take for ever
RED, BLUE, WHITE = (0.78, 0.11, 0.17), (0.13, 0.40, 0.67), (0.97, 0.97, 0.97)
NO_EXTRA = "pictures are drawn by RDKit: pip install 'hpc_kit[explain]', or draw none (gallery.forms: [])"


@dataclass
class Drawn:
    """One structure and a map of it: z [n], pos [n, 3] Angstrom, cell [3, 3], pbc [3], values [n] in `unit`.

    Colours reach from -limit (blue) over zero (white) to limit (red); not signed: from zero on.
    """

    title: str
    z: np.ndarray
    pos: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    values: np.ndarray
    limit: float
    unit: str
    signed: bool = True


def need_rdkit() -> None:
    """Raise InputError where RDKit is not installed."""
    if importlib.util.find_spec("rdkit") is None:
        raise InputError(NO_EXTRA)


def draw(drawn: Drawn, form: str) -> bytes:
    """Return the picture, form "svg" or "png". Needs RDKit."""
    from rdkit.Chem.Draw import rdMolDraw2D

    kind = rdMolDraw2D.MolDraw2DSVG if form == "svg" else rdMolDraw2D.MolDraw2DCairo
    canvas = kind(WIDTH, PANEL + FOOTER, WIDTH, PANEL)
    mol, note = molecule_of(drawn)
    if mol is not None:
        _in_two_dimensions(canvas, mol, drawn)
    else:
        _projected(canvas, drawn)
    _footer(canvas, drawn, note)
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    return text.encode() if isinstance(text, str) else text


def colour(value: float, limit: float) -> tuple[float, float, float]:
    """Return red, green, blue of 0..1."""
    share = max(-1.0, min(1.0, value / limit)) if limit > 0 else 0.0
    end = RED if share > 0 else BLUE
    return tuple(w + abs(share) * (e - w) for w, e in zip(WHITE, end, strict=True))


def molecule_of(drawn: Drawn) -> tuple[Any, str]:
    """Return RDKit's molecule with bonds and places in the plane, or None; and what to say of that in the picture.

    Bonds and their orders come from the positions of a neutral molecule (rdDetermineBonds; Kim and Kim 2015, doi
    10.1002/bkcs.10334). Where no orders fit, bonds are drawn as single ones.
    """
    from rdkit import Chem, RDLogger
    from rdkit.Chem import rdDepictor, rdDetermineBonds

    if np.any(drawn.pbc):
        return None, "3-D projection of the cell"
    if len(drawn.z) > MOST_ATOMS or len(drawn.z) < 2:
        return None, "3-D projection, bonds not searched for"
    editable = Chem.RWMol()
    place = Chem.Conformer(len(drawn.z))
    for i, (z, position) in enumerate(zip(drawn.z.tolist(), drawn.pos.tolist(), strict=True)):
        editable.AddAtom(Chem.Atom(z))
        place.SetAtomPosition(i, position)
    editable.AddConformer(place)
    bare = Chem.Mol(editable)
    RDLogger.DisableLog("rdApp.*")
    try:
        note, mol = "", Chem.Mol(bare)
        try:
            rdDetermineBonds.DetermineBonds(mol, charge=0, maxIterations=ITERATIONS)
        except Exception:  # RDKit raises errors of its own kinds, and ValueError
            note, mol = "bond orders not known", Chem.Mol(bare)
            rdDetermineBonds.DetermineConnectivity(mol)
            for atom in mol.GetAtoms():
                atom.SetNoImplicit(True)
            mol.UpdatePropertyCache(strict=False)
        if not mol.GetNumBonds():
            return None, "3-D projection, no bonds found"
        rdDepictor.Compute2DCoords(mol)
        return mol, note
    except Exception:
        return None, "3-D projection, no bonds found"
    finally:
        RDLogger.EnableLog("rdApp.*")


def _in_two_dimensions(canvas: Any, mol: Any, drawn: Drawn) -> None:
    options = canvas.drawOptions()
    options.useBWAtomPalette()
    options.prepareMolsBeforeDrawing = False  # hydrogens stay: they have contributions
    options.padding, options.highlightRadius, options.highlightBondWidthMultiplier = 0.06, 0.36, 14
    options.standardColoursForHighlightedAtoms = True
    atoms = {i: colour(value, drawn.limit) for i, value in enumerate(drawn.values.tolist())}
    bonds = {}
    for bond in mol.GetBonds():
        ends = drawn.values[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
        bonds[bond.GetIdx()] = colour(float(ends.mean()), drawn.limit)
    canvas.DrawMolecule(
        mol,
        highlightAtoms=list(atoms),
        highlightAtomColors=atoms,
        highlightBonds=list(bonds),
        highlightBondColors=bonds,
    )


def _projected(canvas: Any, drawn: Drawn) -> None:
    """Draw atoms as discs, the far ones first, seen along the direction in which they spread least; and the cell."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float) @ np.asarray(drawn.cell)
    periodic = bool(np.any(drawn.pbc))
    points = np.concatenate([drawn.pos, corners]) if periodic else np.asarray(drawn.pos, float)
    centre = points.mean(axis=0)
    tilt = _tilted() if periodic else np.linalg.svd(points - centre, full_matrices=len(points) < 3)[2][:3]
    flat = (points - centre) @ tilt.T
    spread = max(float(np.ptp(flat[:, :2], axis=0).max()), 2.0)
    factor = (PANEL - 70) / spread
    middle = (flat[:, :2].max(axis=0) + flat[:, :2].min(axis=0)) / 2

    def at(point: np.ndarray) -> tuple[float, float]:
        x, y = (point[:2] - middle) * factor
        return WIDTH / 2 + float(x), PANEL / 2 - float(y)

    canvas.SetLineWidth(1)
    canvas.ClearDrawing()
    if periodic:
        canvas.SetColour((0.55, 0.55, 0.55))
        ends = flat[len(drawn.z) :]
        for a in range(8):
            for axis in (1, 2, 4):
                if not a & axis:
                    _line(canvas, at(ends[a]), at(ends[a | axis]))
    for i in np.argsort(flat[: len(drawn.z), 2]).tolist():
        x, y = at(flat[i])
        radius = max(4.0, min(16.0, 0.45 * factor * float(covalent_radii[drawn.z[i]])))
        canvas.SetColour(colour(float(drawn.values[i]), drawn.limit))
        _disc(canvas, x, y, radius, filled=True)
        canvas.SetColour((0.2, 0.2, 0.2))
        _disc(canvas, x, y, radius, filled=False)
        if len(drawn.z) <= MOST_ATOMS and radius > 7:
            canvas.SetFontSize(min(11.0, radius))
            canvas.DrawString(chemical_symbols[drawn.z[i]], _point(x, y), 0, True)


def _footer(canvas: Any, drawn: Drawn, note: str) -> None:
    """Draw the title, the scale of colours with its ends and unit, and what is to be said of the picture."""
    left, right, top = 50, WIDTH - 50, PANEL + 26
    low = -drawn.limit if drawn.signed else 0.0
    steps = 41
    for step in range(steps):
        value = low + (drawn.limit - low) * (step + 0.5) / steps
        x = left + (right - left) * step / steps
        canvas.SetColour(colour(value, drawn.limit))
        canvas.SetFillPolys(True)
        canvas.SetLineWidth(0)
        canvas.DrawRect(_point(x, top), _point(x + (right - left) / steps + 0.5, top + 12), True)
    canvas.SetColour((0.1, 0.1, 0.1))
    canvas.SetFontSize(12)
    unit = drawn.unit.replace("Angstrom", "Å")
    ends = [(left, f"{low:.3g}"), (right, f"{drawn.limit:.3g}")]
    if drawn.signed:
        ends.append(((left + right) / 2, "0"))
    for x, text in ends:
        canvas.DrawString(text, _point(x, top + 22), 0, True)
    said = f"{unit}; {note}" if note else unit
    canvas.DrawString(_plain(said), _point(WIDTH / 2, top + 38), 0, True)
    canvas.DrawString(_plain(drawn.title), _point(WIDTH / 2, PANEL + 12), 0, True)


def _plain(text: str) -> str:
    """Return text without what could be markup in an SVG, cut to what fits."""
    text = re.sub(r"[^\w .,:;()/=+\-#Å|]", "?", text)
    return text if len(text) <= 52 else text[:51] + "."


def _tilted() -> np.ndarray:
    """Return the axes of a view from a little beside and above, so that a cell looks like one."""
    a, b = np.radians(-20), np.radians(15)
    beside = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
    above = np.array([[1, 0, 0], [0, np.sin(b), np.cos(b)], [0, -np.cos(b), np.sin(b)]])
    return above @ beside


def _point(x: float, y: float) -> Any:
    from rdkit.Geometry import Point2D

    return Point2D(float(x), float(y))


def _line(canvas: Any, a: tuple[float, float], b: tuple[float, float]) -> None:
    canvas.DrawLine(_point(*a), _point(*b), True)


def _disc(canvas: Any, x: float, y: float, radius: float, filled: bool) -> None:
    canvas.SetFillPolys(filled)
    canvas.DrawEllipse(_point(x - radius, y - radius), _point(x + radius, y + radius), True)
