"""Standardised targets and atom references: from the training part alone, and back to the last digit."""

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from some_graphs import batch_of, some_molecules

from hpc_kit.data.features import count_elements
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.train.scale import fit_scale

ENERGY = {"H": -13.6, "C": -1030.0, "N": -1485.0, "O": -2042.0, "S": -10832.0}


@pytest.fixture
def molecules():
    """A batch whose target is a sum of atomic energies plus a little, of two columns."""
    batch = batch_of(some_molecules(), Graph(cutoff=2.0))
    elements = count_elements(batch.z.numpy(), batch.atom_ptr.numpy())
    total = sum(elements[:, atomic_numbers[s]] * e for s, e in ENERGY.items())
    little = np.linspace(-1.0, 1.0, len(total)) ** 3
    batch.targets = torch.from_numpy(np.stack([total + little, little], axis=1))
    return batch, elements


@pytest.mark.parametrize("per_atom", [False, True])
@pytest.mark.parametrize("references", [None, "fit", ENERGY])
def test_standardised_targets_come_back(molecules, per_atom, references):
    batch, elements = molecules
    atoms = batch.atom_ptr.diff().numpy()
    scale = fit_scale(batch.targets.numpy(), atoms, per_atom, elements, references)
    standard = scale.standardize(batch)
    assert standard.dtype == torch.float32 and standard.shape == batch.targets.shape
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(2), rtol=1e-5, atol=0)
    torch.testing.assert_close(scale.restore(standard, batch), batch.targets, rtol=1e-7, atol=1e-7)


def test_given_references_leave_what_is_not_atomic(molecules):
    batch, elements = molecules
    scale = fit_scale(batch.targets.numpy(), batch.atom_ptr.diff().numpy(), False, elements, ENERGY)
    found = scale.restore(scale.standardize(batch), batch)[:, 0]
    assert float(scale.std[0]) == pytest.approx(float(batch.targets[:, 1].std(correction=0)), rel=1e-9)
    assert found.tolist() == pytest.approx(batch.targets[:, 0].tolist(), rel=1e-9)
    assert scale.describe()["atom_references"] == ENERGY


def test_fitted_references_are_the_least_squares_solution():
    rng = np.random.default_rng(0)
    elements = np.zeros((50, 119), np.int32)
    elements[:, [1, 6, 8]] = rng.integers(0, 9, (50, 3))
    targets = elements[:, [1, 6, 8]] @ np.array([-13.6, -1030.0, -2042.0])
    scale = fit_scale(targets[:, None], elements.sum(1), True, elements, "fit")
    assert scale.describe()["atom_references"] == pytest.approx({"H": -13.6, "C": -1030.0, "O": -2042.0})


def test_element_without_a_reference_is_an_error(molecules):
    batch, elements = molecules
    with pytest.raises(InputError, match="train.atom_references: has no value for N, S"):
        fit_scale(
            batch.targets.numpy(), batch.atom_ptr.diff().numpy(), True, elements, {"H": 1.0, "C": 1.0, "O": 1.0}
        )


def test_constant_target_is_left_as_it_is():
    scale = fit_scale(np.full((5, 1), 3.0), np.ones(5), per_atom=False)
    assert (scale.mean.item(), scale.std.item()) == (3.0, 1.0)
