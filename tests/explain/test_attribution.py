"""Maps of all models: they add up where the mathematics says so, a batch gives what each graph gives alone, and
gradients are those of finite differences."""

import numpy as np
import pytest
import torch
from invariances import NEAREST, batch64
from small_models import MODELS, made, structures

from hpc_kit.explain.attribution import METHODS, attribute
from hpc_kit.train.scale import Scale

TARGET = 0
LINEAR = [name for name, (_, _, linear) in MODELS.items() if linear]


def scale() -> Scale:
    references = np.linspace(-2.0, 1.0, 119)
    return Scale(np.array([3.0, 1.0]), np.array([0.7, 2.0]), per_atom=True, references=references)


def maps(model, batch, methods=METHODS, **options):
    return attribute(model, scale(), batch, TARGET, methods, **options)


def summed(values, batch):
    return torch.zeros(batch.graphs, dtype=torch.float64).index_add(0, batch.graph_of_atom(), values)


@pytest.mark.parametrize("name", LINEAR)
def test_contributions_and_baseline_add_up_to_the_prediction(name):
    model, batch = made(name), batch64(structures(name), NEAREST)
    found = maps(model, batch, ("cam",))
    whole = scale().restore(model(batch), batch)[:, TARGET]
    torch.testing.assert_close(found.prediction, whole, rtol=0, atol=0)
    total = summed(found.maps["cam"], batch) + sum(found.baseline.values())
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)
    assert found.maps["cam"].abs().min() > 0 and found.remainder["cam"].abs().max() < 1e-6 * whole.abs().max()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LINEAR])
def test_what_is_left_is_stated_where_the_head_is_not_linear(name):
    model, batch = made(name), batch64(structures(name), NEAREST)
    found = maps(model, batch)
    assert found.remainder["cam"].abs().max() > 1e-6
    for method in ("cam", "grad_cam"):
        total = summed(found.maps[method], batch) + sum(found.baseline.values()) + found.remainder[method]
        torch.testing.assert_close(total, found.prediction)


@pytest.mark.parametrize("name", MODELS)
def test_batch_gives_each_graph_what_it_gives_alone(name):
    all_of_them = structures(name)
    model, batch = made(name), batch64(all_of_them, NEAREST)
    together = maps(model, batch)
    alone = [maps(model, batch64([one], NEAREST)) for one in all_of_them]
    for method in METHODS:
        joined = torch.cat([one.maps[method] for one in alone])
        torch.testing.assert_close(together.maps[method], joined, rtol=1e-6, atol=1e-9)
        assert together.maps[method].abs().max() > 0
    assert "start" not in vars(model)  # the model is as it was


@pytest.mark.parametrize("name", ["schnet", "torchmd_et", "mpnn", "cgcnn"])
def test_gradient_by_positions_is_the_slope(name):
    model, batch = made(name), batch64(structures(name), NEAREST)
    found, step = maps(model, batch, ("positions",)).maps["positions"], 1e-5
    ends = []
    for atom in (0, len(batch.z) - 1):
        slope = []
        for axis in range(3):
            values = []
            for sign in (1, -1):
                batch.pos[atom, axis] += sign * step
                values.append(scale().restore(model(batch), batch)[:, TARGET].sum())
                batch.pos[atom, axis] -= sign * step
            slope.append((values[0] - values[1]) / (2 * step))
        ends.append(torch.stack(slope).norm())
    torch.testing.assert_close(found[[0, -1]], torch.stack(ends).detach(), rtol=1e-4, atol=1e-7)


def test_grad_cam_is_cam_where_all_atoms_have_one_last_layer():
    batch = batch64(structures("schnet"), NEAREST)
    found = maps(made("schnet"), batch)
    torch.testing.assert_close(found.maps["cam"], found.maps["grad_cam"])
    scaled = made("physnet")  # a scale of each element
    with torch.no_grad():
        scaled.scale += torch.linspace(0, 1, 119)[:, None]
    found = maps(scaled, batch)
    assert not torch.allclose(found.maps["cam"], found.maps["grad_cam"], rtol=1e-2)


def test_relu_keeps_what_is_positive():
    batch = batch64(structures("schnet"), NEAREST)
    signed, positive = maps(made("schnet"), batch), maps(made("schnet"), batch, relu=True)
    assert signed.maps["cam"].min() < 0 and positive.remainder == {}
    assert torch.equal(positive.maps["cam"], signed.maps["cam"].clamp(min=0))
    assert torch.equal(positive.maps["saliency"], signed.maps["saliency"])
