"""PhysNet: equal to the paper's equations written out atom by atom."""

import numpy as np
import pytest
import torch
from invariances import (
    NEAREST,
    RADIUS,
    SMALL_PHYSNET,
    SMALL_PHYSNET_CHARGED,
    SMALL_PHYSNET_PLAIN,
    batch64,
    check_forces,
    random_model,
)
from some_graphs import batch_of, some_crystals, some_molecules

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.physnet import PhysNet
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import PhysNet as Spec


def ssp(x: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.exp(x) + 1.0) - np.log(2.0)


def phi(r: torch.Tensor, cutoff: float) -> torch.Tensor:
    return 1 - 6 * (r / cutoff) ** 5 + 15 * (r / cutoff) ** 4 - 10 * (r / cutoff) ** 3 if r < cutoff else 0 * r


class Literal:
    """The paper's equations, one atom and one neighbour after the other, with the weights of `model`."""

    def __init__(self, model: PhysNet, spec: Spec, cutoff: float):
        self.w = dict(model.named_parameters())
        self.spec, self.cutoff = spec, cutoff

    def linear(self, name: str, x: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        return self.w[f"{name}.weight"][rows] @ x + self.w[f"{name}.bias"][rows]

    def residual(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(f"{name}.change.3", ssp(self.linear(f"{name}.change.1", ssp(x))))

    def basis(self, r: torch.Tensor) -> torch.Tensor:
        mu, beta = (torch.log(1 + torch.exp(self.w[f"basis.{name}"])) for name in ("centres", "widths"))
        terms = [phi(r, self.cutoff) * torch.exp(-beta[k] * (torch.exp(-r) - mu[k]) ** 2) for k in range(len(mu))]
        return torch.stack(terms)

    def atoms(self, z: list[int], neighbours: list[list[tuple[int, torch.Tensor]]]) -> list[torch.Tensor]:
        """Atomic properties: z [n]; for each atom its neighbours and their distances."""
        F, spec, w = self.spec.hidden, self.spec, self.w
        x = [w["embedding.weight"][number] for number in z]
        out = [w["output.weight"].new_zeros(len(w["output.weight"])) for _ in z]
        for m in range(spec.interactions):
            name = f"blocks.{m}.interaction"
            new = []
            for i in range(len(z)):
                v = ssp(self.linear(f"{name}.ends", ssp(x[i]), slice(0, F)))
                for j, r in neighbours[i]:
                    mask = w[f"{name}.mask.weight"] @ self.basis(r)
                    v = v + mask * ssp(self.linear(f"{name}.ends", ssp(x[j]), slice(F, 2 * F)))
                for k in range(spec.residual_interaction):
                    v = self.residual(f"{name}.residual.{k}", v)
                new.append(w[f"{name}.gate"] * x[i] + self.linear(f"{name}.update", ssp(v)))
            for i in range(len(z)):
                x[i] = new[i]
                for k in range(spec.residual_atomic):
                    x[i] = self.residual(f"blocks.{m}.atomic.{k}", x[i])
                y = x[i]
                for k in range(spec.residual_output):
                    y = self.residual(f"blocks.{m}.out.{k}", y)
                out[i] = out[i] + w["output.weight"][:, m * F : (m + 1) * F] @ ssp(y)
        return [w["scale"][number] * y + w["shift"][number] for number, y in zip(z, out, strict=True)]

    def energy(self, batch: GraphBatch, g: int) -> torch.Tensor:
        first, last = batch.atom_ptr[g : g + 2].tolist()
        vectors = batch.edge_vectors()
        near = [[] for _ in range(first, last)]
        for e in range(*batch.edge_ptr[g : g + 2].tolist()):
            near[int(batch.dst[e]) - first].append((int(batch.src[e]) - first, vectors[e].square().sum().sqrt()))
        y = self.atoms(batch.z[first:last].tolist(), near)
        if not self.spec.electrostatics:
            return sum(y)
        energy = sum(value[0] for value in y)
        mean = sum(value[1] for value in y) / len(y)
        pos = batch.pos[first:last]
        for i in range(len(y)):
            for j in range(i + 1, len(y)):
                r = (pos[i] - pos[j]).square().sum().sqrt()
                near = phi(2 * r, self.cutoff)
                chi = near / torch.sqrt(r**2 + 1) + (1 - near) / r
                energy = energy + 14.399645351950548 * (y[i][1] - mean) * (y[j][1] - mean) * chi
        return energy.unsqueeze(0)


CASES = {
    "molecules": (SMALL_PHYSNET, some_molecules()[:3], RADIUS),
    "crystals": (SMALL_PHYSNET, some_crystals()[:3], RADIUS),
    "crystals, nearest": (SMALL_PHYSNET, some_crystals()[1:3], NEAREST),
    "no residual blocks": (SMALL_PHYSNET_PLAIN, some_molecules()[:2], RADIUS),
    "electrostatics": (SMALL_PHYSNET_CHARGED, some_molecules()[:2], RADIUS),
}


@pytest.mark.parametrize("case", CASES)
def test_output_gradients_and_forces_equal_the_equations_written_out(case):
    spec, structures, graph = CASES[case]
    model, batch = random_model(spec, graph), batch64(structures, graph)
    batch.pos.requires_grad_()
    literal = Literal(model, spec, graph.cutoff)
    expected = torch.stack([literal.energy(batch, g) for g in range(batch.graphs)])
    out = model(batch)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    inputs = {"pos": batch.pos, **dict(model.named_parameters())}
    given = torch.autograd.grad(out.square().sum(), list(inputs.values()))
    wanted = torch.autograd.grad(expected.square().sum(), list(inputs.values()))
    for name, a, b in zip(inputs, given, wanted, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()), msg=lambda m, n=name: f"{n}: {m}"
        )

    single = model.float()(batch_of(structures, graph))
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))


def test_starts_as_published():
    model = PhysNet(Spec(), Graph(cutoff=10.0))
    centres, widths = (torch.nn.functional.softplus(p) for p in (model.basis.centres, model.basis.widths))
    torch.testing.assert_close(centres, torch.linspace(1.0, np.exp(-10.0), 64), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(widths, torch.full((64,), (2 / 64 * (1 - np.exp(-10.0))) ** -2))
    assert not model.output.weight.any() and not model.blocks[0].interaction.mask.weight.any()
    weight = model.blocks[4].atomic[1].change[3].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(128), rtol=0, atol=1e-5)


def test_charges_of_a_molecule_sum_to_zero_and_charges_of_far_molecules_do_not_meet():
    model = random_model(SMALL_PHYSNET_CHARGED)
    together, alone = batch64(some_molecules()[:2]), [batch64([atoms]) for atoms in some_molecules()[:2]]
    torch.testing.assert_close(model(together), torch.cat([model(one) for one in alone]))
    # A shift of all charges changes nothing: they are made neutral.
    expected = model(together)
    with torch.no_grad():
        model.shift[:, 1] += 3.0
    torch.testing.assert_close(model(together), expected)


def test_electrostatics_of_a_crystal_is_refused():
    with pytest.raises(InputError, match="electrostatics"):
        random_model(SMALL_PHYSNET_CHARGED)(batch64(some_crystals()))


def test_forces_of_charges():
    check_forces(random_model(SMALL_PHYSNET_CHARGED), some_molecules()[:3])


def test_embedding_is_per_atom_and_feeds_the_output():
    batch, model = batch64(some_molecules()), random_model(SMALL_PHYSNET)
    features = model.embed(batch)
    assert features.shape == (len(batch.z), 24)
    per_atom = model.output(features) * model.scale[batch.z] + model.shift[batch.z]
    summed = features.new_zeros(batch.graphs, 1).index_add_(0, batch.graph_of_atom(), per_atom)
    torch.testing.assert_close(model(batch), summed)
