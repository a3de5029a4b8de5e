"""Pictures of maps: the colours are those of the values, a molecule has its bonds and a crystal its cell, and the
page shows both in a real browser without asking for anything."""

import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from playwright.sync_api import sync_playwright

from hpc_kit.explain.drawing import Drawn, colour, draw, molecule_of
from hpc_kit.explain.page import section_of
from hpc_kit.report.page import write_sections

HOSTILE = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"


def drawn(atoms: Atoms, values=None, **options) -> Drawn:
    values = np.linspace(-1.0, 1.0, len(atoms)) if values is None else values
    given = {"limit": 1.0, "unit": "eV", "cell": np.array(atoms.cell), "pbc": np.array(atoms.pbc)} | options
    return Drawn("one", atoms.numbers, atoms.positions, values=values, **given)


def test_colours_are_white_at_zero_and_alike_on_both_sides():
    assert colour(0.0, 2.0) == colour(0.0, 0.0) and min(colour(0.0, 1.0)) > 0.95
    red, blue = colour(1.0, 2.0), colour(-1.0, 2.0)
    assert red[0] > red[2] and blue[2] > blue[0]
    assert colour(5.0, 2.0) == colour(2.0, 2.0)  # what is beyond the scale has the colour of its end


@pytest.mark.parametrize("name", ["CH3CONH2", "C6H6", "CH3CN", "H2O"])
def test_bonds_come_from_the_positions(name):
    from rdkit import Chem

    mol, note = molecule_of(drawn(molecule(name)))
    smiles = {"CH3CONH2": "CC(N)=O", "C6H6": "c1ccccc1", "CH3CN": "CC#N", "H2O": "O"}
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == smiles[name] and note == ""
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == molecule(name).numbers.tolist()


def test_picture_of_a_molecule_has_its_atoms_in_their_colours_scale_and_unit():
    values = np.array([1.0, -1.0, 0.0])
    svg = draw(drawn(molecule("H2O"), values, unit="eV/Angstrom"), "svg").decode()
    fills = re.findall(r"class='atom-(\d)'.*?fill:(#[0-9A-F]{6})", svg)
    expected = ["#" + "".join(f"{int(part * 255):02X}" for part in colour(value, 1.0)) for value in values]
    assert [expected[int(atom)] for atom, _ in fills] == [fill for _, fill in fills] and len(fills) >= 3
    png = draw(drawn(molecule("H2O"), values), "png")
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 2000


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True), "3-D projection of the cell"),
        (Atoms("He2", [[0, 0, 0], [9, 0, 0]]), "3-D projection, no bonds found"),
        (Atoms("C", [[0, 0, 0]]), "3-D projection, bonds not searched for"),
    ],
)
def test_what_has_no_drawing_in_the_plane_is_projected_and_says_so(atoms, said):
    assert molecule_of(drawn(atoms)) == (None, said)
    svg = draw(drawn(atoms), "svg").decode()
    assert svg.count("<ellipse") >= 2 * len(atoms) and svg.count("</svg>") == 1


def entry(name: str, atoms: Atoms, picture: str) -> dict:
    values = np.linspace(-0.2, 0.1, len(atoms)).tolist()
    distance = atoms.get_all_distances()
    bonds = np.argwhere(np.triu(distance < 1.7, 1)).tolist()
    model = {"prediction": -6.1, "maps": {"cam": values}, "limits": {"cam": 0.2}}
    model["pictures"] = {"cam": {"svg": picture}}
    return {
        "id": name,
        "symbols": atoms.get_chemical_symbols(),
        "positions": atoms.positions.tolist(),
        "cell": np.array(atoms.cell).tolist() if atoms.pbc.any() else None,
        "bonds": bonds,
        "true": -6.0,
        "models": {"physnet": model},
    }


@pytest.fixture(scope="module")
def opened(chromium, tmp_path_factory):
    """The page of a molecule and a crystal in the browser, with what it asked for and complained of."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "pictures").mkdir()
    structures = {HOSTILE: molecule("CH3CONH2"), "salt": bulk("NaCl", "rocksalt", a=5.64, cubic=True)}
    for number, atoms in enumerate(structures.values()):
        (folder / "pictures" / f"{number}.svg").write_bytes(draw(drawn(atoms), "svg"))
    gallery = [entry(name, atoms, f"pictures/{i}.svg") for i, (name, atoms) in enumerate(structures.items())]
    row = {"kind": "role", "name": "N", "atoms": 3, "mean": 0.1, "sd": 0.0, "mean_size": 0.1, "above_mean": 0.05}
    random = {"stages": ["output"], "spearman": [0.9], "size": [0.4], "spread": [0.9, 0.9], "passed": False}
    told = {"value": 0.4, "random": 0.2, "difference": 0.2, "interval": [0.1, 0.3], "better": True, "structures": 2}
    fidelity = {way: {"plus": told, "minus": told} for way in ("zero", "remove")}
    trust = {"structures": 2, "sparsity": 0.75, "fidelity": fidelity, "agreement": None, "randomisation": random}
    model = {
        "label": "physnet", "seeds": 1, "structures": 2, "rejected": 0, "mae": 0.1, "units": {"cam": "eV"},
        "remainder": {"cam": {"mean": 0.0, "largest": 1e-7}}, "baseline": {"target_mean": -6.0},
        "roles": {"cam": [row | {"weight": 1.5}]}, "trust": {"cam": trust},
    }  # fmt: skip
    metrics = {"target": "homo", "unit": "eV", "methods": ["cam"], "relu": False, "models": [model], "between": {}}
    path = folder / "page.html"
    write_sections(path, "explained", "A page", [section_of(folder, metrics | {"gallery": gallery})])
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        tab = browser.new_page(viewport={"width": 1000, "height": 900})
        seen = {"said": [], "asked": []}
        tab.on("console", lambda message: seen["said"].append(message.text))
        tab.on("pageerror", lambda error: seen["said"].append(str(error)))
        tab.on("request", lambda request: seen["asked"].append(request.url))
        tab.goto(path.as_uri())
        yield tab, seen, path
        browser.close()


def colours_seen(tab) -> int:
    """Return how many colours of the view are neither white, gray nor black."""
    tab.wait_for_timeout(300)
    return tab.locator(".view canvas").first.evaluate(
        "canvas => { const copy = document.createElement('canvas');"
        "copy.width = canvas.width; copy.height = canvas.height;"
        "const pen = copy.getContext('2d'); pen.drawImage(canvas, 0, 0);"
        "const data = pen.getImageData(0, 0, copy.width, copy.height).data, found = new Set();"
        "for (let i = 0; i < data.length; i += 4) { const [r, g, b] = data.slice(i, i + 3);"
        "if (Math.max(r, g, b) - Math.min(r, g, b) > 40) found.add(r + ',' + g + ',' + b); } return found.size; }"
    )


def test_page_shows_molecule_and_crystal_in_three_dimensions(opened):
    tab, _, _ = opened
    assert tab.locator(".explained").get_attribute("data-shown") == HOSTILE
    assert colours_seen(tab) > 20
    tab.locator(".card", has_text="salt").locator("button").click()
    assert tab.locator(".explained").get_attribute("data-shown") == "salt"
    assert colours_seen(tab) > 20
    assert "from -0.200 (blue), 0 (white), 0.200 (red) eV" in tab.locator(".about").text_content()


def test_nothing_is_fetched_complained_of_or_run(opened):
    tab, seen, path = opened
    assert seen["said"] == [] and [url for url in seen["asked"] if not url.startswith("data:")] == [path.as_uri()]
    assert tab.evaluate("window.harmed") is None and HOSTILE in tab.locator("figcaption").first.text_content()
    shown = tab.locator("figure img:visible")
    assert shown.count() == 2 and shown.first.evaluate("img => img.naturalWidth") == 360


def test_trust_is_told_beside_the_pictures(opened):
    text = opened[0].locator("ul.trust").inner_text()
    assert "0.4 against 0.2 (more than random atoms)" in text and "FAILED: the map survives" in text
    numbers = json.loads(opened[0].locator("script.structures").text_content())
    assert numbers["structures"][1]["cell"][0][0] == 5.64
