"""What the page says of searches: importances that are known, drawings, the sections, a missing package."""

import sys

import numpy as np
import pytest
from search_records import add_trials, search_run

from hpc_kit.report.page import page
from hpc_kit.search import drawings
from hpc_kit.search.importance import LEAST, importances
from hpc_kit.spec.errors import InputError


def trials(count: int, seed: int = 0) -> list[tuple[dict, float]]:
    """Errors that depend on the rate most, on the optimizer less, on `nothing` not at all."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        rate, optimizer = float(10 ** random.uniform(-4, -1)), str(random.choice(["adam", "sgd"]))
        values = {"train.learning_rate": rate, "train.optimizer": optimizer, "train.nothing": float(random.random())}
        if number % 2:
            values["model.hidden"] = 8
        found.append((values, 0.01 * 10 ** abs(np.log10(rate) + 2) * (6.0 if optimizer == "sgd" else 1.0)))
    return found


def test_what_decides_the_error_is_found_and_what_does_not_is_not_told_from_chance():
    found = importances(trials(50), ["train.learning_rate"])
    assert [one.key for one in found.keys] == ["train.learning_rate", "train.optimizer", "train.nothing"]
    rate, optimizer, nothing = found.keys
    assert rate.low <= rate.share <= rate.high and rate.share > 0.5
    assert rate.told and optimizer.told and not nothing.told
    assert found.left_out == {"model.hidden": 25} and "model.hidden (25)" in " ".join(found.notes())


def test_too_few_trials_are_not_judged_and_few_are_told():
    assert importances(trials(LEAST - 1)) is None
    assert "12 trials are few" in " ".join(importances(trials(12)).notes())


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'hpc-kit\[search\]'"):
        importances(trials(20))


def test_a_band_holds_the_middle_half_and_the_line_is_the_median():
    searches = [[float(value)] * 2 for value in (1, 2, 3, 4, 50)]
    figure = drawings.best_so_far("best so far", "trials", "error", {"bayes": ([1.0, 2.0], searches)})
    assert "bayes: 3 (2 to 4) at 1" in figure.svg
    assert figure.legend == [(1, "bayes, 5 searches")]


def test_a_search_without_results_yet_leaves_a_gap_and_no_infinity():
    figure = drawings.best_so_far("", "trials", "error", {"bayes": ([1.0, 2.0], [[float("inf"), 2.0]] * 3)})
    assert 'class="line c1" d="M' in figure.svg and "M inf" not in figure.svg and "nan" not in figure.svg


def test_parallel_coordinates_have_a_line_a_trial_and_the_best_tenth_in_colour():
    rows = [(values, error, f"trial {n}") for n, (values, error) in enumerate(trials(40))]
    figure = drawings.parallel(rows, ["train.learning_rate"], "error")
    assert figure.svg.count('class="line c6"') == 4
    assert figure.svg.count('class="line c2 faint"') == 36


def test_the_page_has_its_sections_in_order(tmp_path):
    run = search_run(tmp_path, "grid={search.strategy: [bayes, random]}", "search.objectives=[error, epoch_s]")
    add_trials(run, 11, fail=(3,))
    html = page(run)
    names = ["Searches", "Trials", "Strategies", "Importance of hyperparameters", "Errors by value", "Pareto set"]
    places = [html.index(f"<h2>{name}</h2>") for name in [*names, "Failed trials"]]
    assert places == sorted(places)
    assert "not finite: the loss of epoch 1 is nan" in html and "cannot be told apart by 1 against 1" in html
    assert "http" not in html.split("<h2>Searches")[1].split("<h2>Attempts")[0]


def test_a_page_without_optuna_says_so_in_its_section_and_has_the_others(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    run = search_run(tmp_path)
    add_trials(run, 12)
    html = page(run)
    assert "Not computed: optuna is not installed: pip install" in html and "<h2>Errors by value</h2>" in html


def test_targets_are_shown_apart(tmp_path):
    run = search_run(tmp_path, "grid={data.target: [zpve, homo]}", "search.trials=12")
    add_trials(run, 2)
    html = page(run)
    assert "<h2>Trials: data.target=zpve</h2>" in html and "<h2>Trials: data.target=homo</h2>" in html
