from hpc_kit.search.pruning import Pruning, why_to_prune


def test_median_rule_compares_best_values_at_the_same_epoch():
    curves = {number: [5.0, float(number)] for number in range(1, 6)} | {9: [9.0, 3.1]}
    rule = Pruning(rule="median", warmup=2, least=5)
    assert "worse than 3, the median of 5 trials" in why_to_prune(rule, curves, 9, 10)
    assert why_to_prune(rule, curves | {9: [2.9, 9.0]}, 9, 10) == ""
    assert why_to_prune(rule, curves | {9: [9.0]}, 9, 10) == ""  # warming up
    assert why_to_prune(rule, curves, 9, 2) == ""  # it is done
    assert why_to_prune(Pruning(least=6), curves, 9, 10) == ""


def test_halving_keeps_one_in_factor_at_each_rung():
    rule = Pruning(rule="halving", warmup=2, factor=3)
    curves = {number: [9.0, float(number)] for number in range(6)}
    gone = {number for number in curves if why_to_prune(rule, curves, number, 18)}
    assert gone == {2, 3, 4, 5}
    between = {number: [*curve, 1.0] for number, curve in curves.items()}
    assert not any(why_to_prune(rule, between, number, 18) for number in between)
    few = {0: [1.0, 1.0], 1: [2.0, 2.0]}
    assert why_to_prune(rule, few, 1, 18) == ""


def test_nothing_is_pruned_without_a_rule():
    assert why_to_prune(None, {0: [1.0], 1: [9.0]}, 1, 10) == ""
