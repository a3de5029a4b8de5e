"""The page of a run in a real browser: every drawing is there, the pointer is answered, nothing is fetched, no text
of a record becomes markup."""

import json
import re

import h5py
import pytest
from conftest import hpc_kit, probe_run, small_run
from playwright.sync_api import sync_playwright

from hpc_kit.report.page import page, write_page
from hpc_kit.runs.ledger import Ledger
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.task import run_task

HOSTILE = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three seeds, the last of which failed; an identifier and a log line that are markup."""
    run = small_run(tmp_path_factory.mktemp("page") / "run", "train.epochs=3")
    first, second, third = (run.task(task.id) for task in run.read_plan().tasks)
    ledger = Ledger(run.ledger, [task.id for task in run.read_plan().tasks])
    for folder in (first, second, third):
        ledger.submit([folder.path.name])
        ledger.start(folder.path.name, {"host": "here", "job": None})
    for folder in (first, second):
        run_task(folder.path)
        ledger.end(folder.path.name, "done", exit_code=0)
    with h5py.File(first.predictions, "r+") as file:
        ids = file["ids"][:].astype("S200")
        del file["ids"]
        ids[0] = HOSTILE.encode()
        file["ids"] = ids
    first.write_done(2)
    third.last.write_bytes(b"no checkpoint")
    with pytest.raises(WorkError) as failure:
        run_task(third.path)
    third.log.write_text(f"{HOSTILE}\n")
    ledger.end(third.path.name, "failed", f"{failure.value} {HOSTILE}", 1)
    return run


@pytest.fixture(scope="module")
def opened(run, chromium, tmp_path_factory):
    """The page in the browser, with what it asked for and complained of."""
    path = tmp_path_factory.mktemp("html") / "page.html"
    write_page(run, path, force=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1000, "height": 900})
        seen = {"said": [], "asked": []}
        tab.on("console", lambda message: seen["said"].append(message.text))
        tab.on("pageerror", lambda error: seen["said"].append(str(error)))
        tab.on("request", lambda request: seen["asked"].append(request.url))
        tab.goto(path.as_uri())
        yield tab, seen, path
        browser.close()


def test_nothing_is_fetched_and_nothing_is_complained_of(opened):
    _, seen, path = opened
    assert seen == {"said": [], "asked": [path.as_uri()]}


def test_every_drawing_has_marks_within_its_frame(opened):
    tab, _, _ = opened
    drawings = tab.locator(".plot svg")
    assert drawings.count() == 9  # three curves, MAE, parity, residuals, times, throughput, attempts
    for place in range(drawings.count()):
        box = drawings.nth(place).bounding_box()
        inside = drawings.nth(place).evaluate(
            "svg => [...svg.querySelectorAll('.line, .points, .fill')].map(m => m.getBBox())"
            ".filter(b => b.width > 0 && b.x >= 0 && b.y >= 0 && b.x + b.width <= 760).length"
        )
        assert box["width"] > 300 and box["height"] > 50 and inside > 0


def test_the_pointer_names_the_structure_under_it(opened, run):
    tab, _, _ = opened
    plot = tab.locator("figure", has_text="predicted against true").locator(".plot")
    marks = json.loads(plot.locator("script.hover").text_content())
    place = marks["t"].index(next(text for text in marks["t"] if HOSTILE in text))
    plot.scroll_into_view_if_needed()
    box = plot.locator("svg").bounding_box()
    scale = box["width"] / 760
    tab.mouse.move(box["x"] + marks["x"][place] * scale, box["y"] + marks["y"][place] * scale)
    assert tab.locator("#hint").is_visible()
    here = marks["x"][place], marks["y"][place]
    near = [t for x, y, t in zip(*marks.values(), strict=True) if abs(x - here[0]) < 2 and abs(y - here[1]) < 2]
    assert tab.locator("#hint").text_content() in near
    tab.mouse.move(0, 0)
    assert not tab.locator("#hint").is_visible()


def test_text_of_records_is_text(opened):
    tab, _, _ = opened
    assert tab.evaluate("window.harmed") is None
    assert tab.locator("body img").count() == 0
    assert HOSTILE in tab.locator("pre", has_text="script").first.text_content()


def test_states_errors_and_conditions_are_told(opened, run):
    tab, _, _ = opened
    assert tab.locator("header").text_content().count("2 done, 1 failed") == 1
    told = tab.locator("main").inner_text()
    for text in (
        "no whole checkpoint",
        "guessing the mean",
        "Everything is the same for all tasks",
        "attempts and blocks",
    ):
        assert text in told


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(opened, scheme):
    tab, _, _ = opened
    tab.emulate_media(color_scheme=scheme)
    colours = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert contrast(*colours) > 7  # WCAG AAA
    lines = tab.evaluate(
        "[...document.querySelectorAll('.line, .points, .fill')].map(m => getComputedStyle(m).color)"
    )
    assert min(contrast(colour, colours[1]) for colour in lines) > 3  # WCAG's bound for graphics


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    tab, _, _ = opened
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.set_viewport_size({"width": 1000, "height": 900})


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as the browser names them (WCAG 2.1)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_run_of_another_kind_and_one_that_has_not_begun_have_pages(tmp_path):
    assert "1 planned" in page(probe_run(tmp_path / "run"))


def test_a_page_that_is_there_is_kept_unless_forced(tmp_path):
    run, path = probe_run(tmp_path / "run"), tmp_path / "page.html"
    path.write_text("mine")
    done = hpc_kit("report", run.path, "--html", path, cwd=tmp_path)
    assert (done.returncode, path.read_text()) == (2, "mine")
    assert "page.html: exists; --force writes it anew" in done.stderr
    write_page(run, path, force=True)
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_page(run, tmp_path / "nowhere" / "page.html", force=False)
