"""The page of maps in a real browser: maps are drawn and coloured, the pointer names a structure, and nothing is
asked for."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from playwright.sync_api import sync_playwright
from some_graphs import rattled

from hpc_kit.embed.job import Embed, Learner
from hpc_kit.embed.maps import maps_of
from hpc_kit.embed.output import write_map, write_tables
from hpc_kit.embed.page import sections_of
from hpc_kit.embed.roughness import roughness
from hpc_kit.embed.study import Study, correlations
from hpc_kit.files import file_sha256
from hpc_kit.report.page import write_sections
from hpc_kit.spec.train import Weights

HOSTILE = "</script><script>window.harmed = 1</script>"


@pytest.fixture(scope="module")
def opened(chromium, energy_run, tmp_path_factory):
    """The page of 60 molecules as three models see them, in the browser, with what it asked for and complained of."""
    folder = tmp_path_factory.mktemp("maps")
    frames = [rattled(molecule(("CH3CH2OH", "C6H6", "CH3CONH2")[i % 3]), i) for i in range(60)]
    task = energy_run.task(energy_run.read_plan().tasks[0].id)
    ase.io.write(folder / "m.extxyz", frames)
    weights = [Weights(path=str(task.best), sha256=file_sha256(task.best))]
    models = [Learner(label=f"m{i}", cell="", weights=weights, units={"energy": "eV"}) for i in range(3)]
    asked = Embed(models="x", input=str(folder / "m.extxyz"), umap=None, allow_unseen=True)
    study = Study(asked, models, {"energy": "eV"}, folder, "cpu")
    found = study.features(0, lambda *_: None)
    found[0].ids[0] = HOSTILE
    values = np.arange(60.0)
    rows = []
    for number, one in enumerate(found):
        one.truth = {"energy": one.prediction["energy"] + number + np.cos(values)}
        one.features = one.features + number
        made = roughness(one.features, one.truth["energy"], size=30, subsets=2)
        rows.append(study._row(f"m{number}", 8, "energy", "euclidean", made))
    mapped = [maps_of(one.features, None) for one in found]
    told = [study._told(*each, None) for each in zip(models, found, mapped, strict=True)]
    write_tables(folder, models, study.units, found, mapped, None, rows)
    parts = np.array(["train", "val", "test"] * 20)
    labels = [model.label for model in models]
    sha256 = write_map(folder / "map.json", asked, labels, study.units, found, mapped, parts)
    metrics = {
        "units": study.units, "structures": 60, "models": told, "roughness": rows,
        "correlations": correlations(rows, told), "notes": [], "map_sha256": sha256,
    }  # fmt: skip
    metrics = json.loads(json.dumps(metrics))
    path = folder / "page.html"
    write_sections(path, "maps", "A page", list(sections_of(folder, metrics)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        seen = {"said": [], "asked": []}
        tab.on("console", lambda message: seen["said"].append(message.text))
        tab.on("pageerror", lambda error: seen["said"].append(str(error)))
        tab.on("request", lambda request: seen["asked"].append(request.url))
        tab.goto(path.as_uri())
        yield tab, seen, path, folder, metrics
        browser.close()


def colours(tab, panel: int) -> int:
    """Return how many colours the map of a model has."""
    return (
        tab.locator(".feature-maps figure")
        .nth(panel)
        .locator("canvas")
        .first.evaluate(
            "c => { const copy = document.createElement('canvas'); copy.width = c.width; copy.height = c.height;"
            "const pen = copy.getContext('2d', { willReadFrequently: true }); pen.drawImage(c, 0, 0);"
            "const d = pen.getImageData(0, 0, c.width, c.height).data, s = new Set();"
            "for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255)"
            " s.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]);"
            "return s.size; }"
        )
    )


def test_maps_are_coloured_by_what_is_chosen(opened):
    tab = opened[0]
    root = tab.locator(".feature-maps")
    assert root.get_attribute("data-shown") == "pca-2|true energy" and root.locator("figure").count() == 3
    assert all(colours(tab, panel) > 8 for panel in range(3))
    tab.select_option("select[name=colour]", "part of the split")
    assert colours(tab, 0) == 3 and "trainvaltest" in tab.locator(".scale").inner_text().replace("\n", "")
    tab.select_option("select[name=map]", "pca-3")
    tab.select_option("select[name=colour]", "atoms of N")
    before = tab.locator(".feature-maps canvas").first.evaluate("c => c.toDataURL()")
    box = tab.locator(".feature-maps figure div").first.bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 190, box["y"] + 130, steps=3)
    tab.mouse.up()
    assert tab.locator(".feature-maps canvas").first.evaluate("c => c.toDataURL()") != before
    tab.select_option("select[name=map]", "pca-2")


def test_pointer_names_a_structure_and_draws_it(opened):
    tab, _, _, _, _ = opened
    tab.select_option("select[name=colour]", "error of energy")
    box = tab.locator(".feature-maps figure div").first.bounding_box()
    for step in range(16 * 16):
        tab.mouse.move(box["x"] + 10 + step % 16 * 18, box["y"] + 10 + step // 16 * 18)
        if tab.locator("#hint").is_visible():
            break
    hint = tab.locator("#hint")
    assert hint.inner_text().startswith(tab.locator(".feature-maps").get_attribute("data-pointed"))
    assert "error of energy" in hint.inner_text() and hint.locator("canvas").count() == 1


def test_roughness_stands_beside_the_error_and_says_that_three_models_are_few(opened):
    text = opened[0].locator("section", has_text="Roughness over learned features").last.inner_text()
    assert "over 3 models: Spearman" in text and "this shows no trend and excludes none" in text
    assert "2 x 30 of 60" in text


def test_nothing_is_fetched_complained_of_or_run(opened):
    tab, seen, path, folder, metrics = opened
    assert seen["said"] == [] and seen["asked"] == [path.as_uri()] and tab.evaluate("window.harmed") is None
    (folder / "map.json").write_text("{}")
    assert "was changed after the task ended" in next(iter(sections_of(folder, metrics))).markup
