"""What trust in a map rests on: atoms that matter change the prediction more than random ones, and a map that random
weights do not change is found out."""

import numpy as np
import pytest
import torch
from invariances import NEAREST, RADIUS, batch64
from small_models import MODELS, made, structures
from some_graphs import some_molecules

from hpc_kit.data.shards import pack
from hpc_kit.data.sources.atoms import from_ase
from hpc_kit.explain.attribution import attribute
from hpc_kit.explain.roles import Roles, roles_of
from hpc_kit.explain.trust import agreement, fidelity, kept, layers_of, randomisation, spearman, told_fidelity
from hpc_kit.train.scale import Scale

SCALE = Scale(np.zeros(2), np.ones(2), per_atom=False)


def cam(model, batch) -> dict[str, torch.Tensor]:
    return attribute(model, SCALE, batch, 0, ("cam",)).maps


def test_top_atoms_of_an_exact_map_change_the_output_by_what_they_contribute():
    model, batch = made("schnet"), batch64(some_molecules())
    maps = cam(model, batch)
    found = fidelity(model, batch, 0, maps, 0.75, 3, torch.Generator().manual_seed(0))["zero"]
    for number in range(batch.graphs):
        atoms = slice(*batch.atom_ptr[number : number + 2].tolist())
        values = maps["cam"][atoms]
        top = values[values.abs().argsort(descending=True)[: max(1, int(np.ceil(0.25 * len(values))))]].sum()
        assert found["plus cam"][number] == pytest.approx(abs(float(top)), rel=1e-6)
        assert found["minus cam"][number] == pytest.approx(abs(float(values.sum() - top)), rel=1e-6)


@pytest.mark.parametrize("name", ["schnet", "cgcnn", "mpnn_transformer", "alignn", "physnet, electrostatics"])
def test_removing_atoms_leaves_the_graphs_of_the_others(name):
    model, whole = made(name), batch64(structures(name), NEAREST)
    keep = torch.ones(len(whole.z), dtype=torch.bool)
    assert torch.equal(model(kept(whole, keep)), model(whole))
    keep[[0, len(keep) - 1]] = False
    found = kept(whole, keep)
    assert found.atom_ptr.tolist()[-1] == len(found.z) == len(whole.z) - 2 and found.edge_ptr[-1] == len(found.src)
    vectors = whole.edge_vectors()[keep[whole.src] & keep[whole.dst]]
    assert (
        torch.equal(found.edge_vectors(), vectors)
        and (found.graph_of_atom()[found.src] == found.graph_of_edge()).all()
    )
    output = model(found)
    assert torch.isfinite(output).all()
    untouched = slice(1, whole.graphs - 1)
    torch.testing.assert_close(output[untouched], model(whole)[untouched])


def test_told_fidelity_knows_the_map_that_is_right():
    model, batch = made("schnet"), batch64([*some_molecules()] * 8)
    truth = cam(model, batch)["cam"]
    maps = {"truth": truth, "opposite": -truth.abs() + 0.0, "nonsense": 1.0 / truth.abs()}
    found = [fidelity(model, batch, 0, maps, 0.75, 8, torch.Generator().manual_seed(1))]
    right, wrong = (told_fidelity(found, name, 2.0)["zero"]["plus"] for name in ("truth", "nonsense"))
    assert right["better"] and right["interval"][0] > 0 and right["structures"] == 48
    assert not wrong["better"] and wrong["value"] < right["value"] and wrong["random"] == right["random"]


def test_atoms_alone_are_left_out():
    from ase import Atoms

    model, batch = made("schnet"), batch64([Atoms("C"), *some_molecules()[:1]])
    found = [fidelity(model, batch, 0, cam(model, batch), 0.75, 1, torch.Generator())]
    assert np.isnan(found[0]["zero"]["plus cam"]).tolist() == [True, False]
    assert told_fidelity(found, "cam", 1.0)["remove"]["plus"]["structures"] == 1


def test_few_structures_have_the_wide_interval_of_students_t():
    values = {"plus cam": np.array([1.0, 2.0]), "plus random": np.zeros(2)}
    part = {way: values | {"minus cam": np.zeros(2), "minus random": np.zeros(2)} for way in ("zero", "remove")}
    plus = told_fidelity([part], "cam", 1.0)["zero"]["plus"]
    assert plus["interval"] == pytest.approx([1.5 - 12.7062 * 0.5, 1.5 + 12.7062 * 0.5], rel=1e-4)
    assert not plus["better"]


def test_spearman_is_that_of_scipy_within_structures():
    from scipy.stats import spearmanr

    a, b, ptr = np.random.default_rng(0).integers(0, 5, (2, 12)).astype(float)[0], np.arange(12.0), [0, 7, 12]
    expected = [spearmanr(a[:7], b[:7]).statistic, spearmanr(a[7:], b[7:]).statistic]
    np.testing.assert_allclose(spearman(a, b, np.array(ptr)), expected)
    assert np.isnan(spearman(a, np.ones(12), np.array(ptr))).all()
    told = agreement([b, b, -b], np.array(ptr))
    assert (told["spearman"], told["least"], told["most"], told["pairs"]) == (pytest.approx(-1 / 3), -1, 1, 3)
    assert agreement([b], np.array(ptr)) is None


@pytest.mark.parametrize("name", MODELS)
def test_map_that_survives_random_weights_fails(name):
    """Beside the real map, one that is made of the elements alone."""
    model, batch = made(name), batch64(structures(name), NEAREST)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def maps(model, batch):
        return {**cam(model, batch), "elements": batch.z, "constant": torch.ones(len(batch.z))}

    found = randomisation(model, [batch], maps, draws=2)
    assert found["elements"]["passed"] is False and set(found["elements"]["spearman"]) == {1.0}
    assert found["constant"]["passed"] is None and set(found["elements"]["size"]) == {1.0}
    told, layers = found["cam"], layers_of(model, batch)
    assert sorted(sum((names for _, names in layers), [])) == sorted(name for name, _ in model.named_parameters())
    assert told["stages"] == [layer for layer, _ in layers] and min(told["spearman"]) < 0.999
    first, *_, last = told["stages"]
    assert first in ("output", "scale", "shift", "fc") and last in ("embedding", "atom_embedding", "basis")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_roles_of_atoms_and_their_sums():
    from ase.build import molecule

    graph, names = RADIUS, ("CH3CONH2", "CH3CH2OH", "CH3CN", "H2CO")
    built = [from_ase(name, molecule(name), {}, None) for name in names]
    arrays = pack(built, [], graph)
    roles = roles_of(arrays)
    assert sorted(roles[: arrays.atom_ptr[1]]) == sorted(
        ["CH3", "C of C=O", "O of C=O", "NH2", "H on N", "H on N", "H on C", "H on C", "H on C"]
    )
    ethanol, nitrile, formaldehyde = (set(roles[slice(*arrays.atom_ptr[i : i + 2])]) for i in (1, 2, 3))
    assert ethanol == {"CH3", "CH2", "OH", "H on C", "H on O"}
    assert nitrile == {"CH3", "C of C#N", "N of C#N", "H on C"} and formaldehyde == {"C of C=O", "O of C=O", "H on C"}
    values = np.where(arrays.z == 7, 4.0, -1.0)
    whole, parts = Roles(), Roles()
    whole.add(arrays.z, roles, {"m": values}, arrays.atom_ptr)
    cut = arrays.atom_ptr[2]
    parts.add(arrays.z[:cut], roles[:cut], {"m": values[:cut]}, arrays.atom_ptr[:3])
    second = Roles()
    second.add(arrays.z[cut:], roles[cut:], {"m": values[cut:]}, arrays.atom_ptr[2:] - cut)
    parts.merge(second.sums)
    for one, other in zip(parts.report("m"), whole.report("m"), strict=True):
        assert one == pytest.approx(other)
    first = whole.report("m")[0]
    assert (first["name"], first["atoms"], first["mean"], first["sd"]) == ("N", 2, 4.0, 0.0)
    assert first["weight"] == pytest.approx((4 / (12 / 9) + 4 / (9 / 6)) / 2)
