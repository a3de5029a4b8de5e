"""Plots: marks stand where their values are, odd values leave gaps, texts are escaped."""

import json
import re

import pytest

from hpc_kit.svg import HEIGHT, LEFT, RIGHT, WIDTH, Marks, Span, plot, timeline


def hover(figure) -> dict[str, list]:
    return json.loads(re.search(r'class="hover">(.*?)</script>', figure.svg)[1])


def test_marks_stand_in_the_order_of_their_values():
    marks = hover(plot("c", "x", "y", [Marks([0, 1, 2], [5.0, 7.0, 6.0], texts=["a", "b", "c"])]))
    assert marks["x"] == sorted(marks["x"]) and LEFT < marks["x"][0] < marks["x"][2] < WIDTH - RIGHT
    assert marks["y"][1] < marks["y"][2] < marks["y"][0] < HEIGHT  # y grows downwards
    assert marks["x"][1] == pytest.approx((marks["x"][0] + marks["x"][2]) / 2, abs=0.1)


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    places = hover(plot("c", "x", "y", [Marks([0, 1, 2], [1.0, 10.0, 100.0], texts="abc")], log_y=True))["y"]
    assert places[0] - places[1] == pytest.approx(places[1] - places[2], abs=0.11)


@pytest.mark.parametrize("odd", [None, float("nan"), float("inf"), 0.0, -1.0])
def test_what_cannot_be_shown_interrupts_the_line(odd):
    figure = plot("c", "x", "y", [Marks([0, 1, 2, 3], [1.0, odd, 2.0, 3.0], texts="abcd")], log_y=True)
    assert re.search(r'class="line c0" d="M[^M]*M[^M]*L[^M"]*"', figure.svg)
    assert hover(figure)["t"] == ["a", "c", "d"]


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [1e-300, 1e300], [-1e-9, 1e-9]])
def test_any_values_have_axes(values):
    figure = plot("c", "x", "y", [Marks(range(len(values)), values, "points")])
    assert "nan" not in figure.svg and figure.svg.count('class="tick"') >= 2


def test_ticks_are_round_numbers():
    figure = plot("c", "epoch", "y", [Marks([1, 2, 3], [0.0, 500.0, 1000.0])], whole_x=True)
    ticks = re.findall(r'class="tick"[^>]*>([^<]*)<', figure.svg)
    assert {"0", "200", "1000", "1", "2", "3"} <= set(ticks) and "1.5" not in ticks


def test_texts_are_escaped_and_cannot_end_the_data():
    figure = plot("<b>", "<i>", "&", [Marks([0], [1.0], texts=["</script><b>"])], names=["<u>"])
    assert hover(figure)["t"] == ["</script><b>"] and figure.svg.count("</script>") == 1
    assert not re.search("<[biu]>", figure.svg)


def test_a_timeline_begins_with_its_first_start():
    figure = timeline("c", ["one", "two"], [Span(0, 100.0, 110.0, 0, "a"), Span(1, 105.0, 120.0, 1, "b")], [])
    left, right = (float(x) for x in re.findall(r'<rect class="fill c\d" x="([\d.]+)"', figure.svg))
    assert left == pytest.approx(LEFT + 90) and right - left == pytest.approx(
        (WIDTH - RIGHT - LEFT - 90) / 4, abs=0.1
    )
