"""SchNet, PhysNet, MPNN and MPNN-transformer are blind to what must not matter, and differentiable twice."""

import pytest
from invariances import (
    GRAPHS,
    RADIUS,
    SMALL_MPNN,
    SMALL_MPNN_TRANSFORMER,
    SMALL_PHYSNET,
    SMALL_PHYSNET_CHARGED,
    SMALL_PHYSNET_PLAIN,
    SMALL_SCHNET,
    STRUCTURES,
    batch64,
    by_name,
    check_autocast,
    check_forces,
    check_gradients_reach_all,
    check_motion,
    check_nothing,
    check_one_by_one,
    check_supercell,
    random_model,
)
from some_graphs import batch_of, some_molecules

ALL = [SMALL_SCHNET, SMALL_PHYSNET, SMALL_MPNN, SMALL_MPNN_TRANSFORMER]
SPECS = pytest.mark.parametrize("spec", ALL, ids=by_name)


@SPECS
@STRUCTURES
def test_motion_and_order_of_atoms_change_nothing(spec, structures):
    check_motion(random_model(spec), structures)


@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("spec", [SMALL_SCHNET, SMALL_PHYSNET], ids=by_name)
def test_a_larger_unit_cell_has_as_many_times_the_sum_and_the_same_mean(spec, readout):
    check_supercell(random_model(spec.model_copy(update={"readout": readout})), extensive=readout == "sum")


@pytest.mark.parametrize("spec", [SMALL_MPNN, SMALL_MPNN_TRANSFORMER], ids=by_name)
def test_choice_of_unit_cell_changes_nothing(spec):
    check_supercell(random_model(spec), extensive=False)


@SPECS
@STRUCTURES
def test_batch_equals_one_by_one(spec, structures):
    check_one_by_one(random_model(spec), structures)


@pytest.mark.parametrize("spec", [*ALL, SMALL_PHYSNET_PLAIN], ids=by_name)
def test_no_graphs_and_no_edges(spec):
    check_nothing(random_model(spec, targets=2), targets=2)


@pytest.mark.parametrize("spec", [*ALL, SMALL_PHYSNET_PLAIN, SMALL_PHYSNET_CHARGED], ids=by_name)
def test_all_parameters_take_part(spec):
    check_gradients_reach_all(random_model(spec), batch64(some_molecules()))


@SPECS
@STRUCTURES
@GRAPHS
def test_forces_equal_finite_differences_and_can_be_trained_on(spec, structures, graph):
    check_forces(random_model(spec, graph), structures[:3])


@SPECS
def test_bfloat16(spec):
    check_autocast(random_model(spec).float(), batch_of(some_molecules(), RADIUS))
