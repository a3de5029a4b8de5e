"""PhysNet (Unke & Meuwly 2019, doi 10.1021/acs.jctc.9b00181): modules of interaction, refinement and output.

Formulas are those of the paper's section on the architecture, names and initial values those of its authors' code
(github.com/MMunibas/PhysNet, neural_network/). Their D3 dispersion and the penalty on modules that do not converge
are left out.
"""

import math

import torch
from torch import nn

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.filtered import filtered_sum
from hpc_kit.models.layers import Linear, ShiftedSoftplus, clamped_exp, sum_by_graph
from hpc_kit.models.pairs import Pairs, distances, has_reverses, pairs_of
from hpc_kit.models.parts import GraphModel
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.models import PhysNet as Spec

COULOMB = 14.399645351950548  # e^2 / (4 pi eps0) in eV Angstrom: twice `kehalf` of the authors' NeuralNetwork.py


class PhysNet(GraphModel):
    """Atom embeddings through `interactions` modules, whose outputs are summed, then scaled and shifted by element.

    With `electrostatics` each target has, beside its atomic property, a charge of each atom, and the Coulomb energy
    of a molecule's charges is added: in eV for charges in e, where the target is an energy in eV.
    """

    def __init__(self, spec: Spec, graph: Graph, targets: int = 1):
        super().__init__()
        self.cutoff, self.targets = graph.cutoff, targets
        self.reverses = has_reverses(graph)
        self.electrostatics, self.readout = spec.electrostatics, spec.readout
        self.linear_head = not spec.electrostatics  # the Coulomb energy is a product of charges
        outputs = 2 * targets if spec.electrostatics else targets
        self.embedding = nn.Embedding(119, spec.hidden)
        self.basis = ExponentialBasis(graph.cutoff, spec.basis)
        self.blocks = nn.ModuleList(Module(spec) for _ in range(spec.interactions))
        self.output = Linear(spec.interactions * spec.hidden, outputs, bias=False)
        self.scale = nn.Parameter(torch.ones(119, outputs))
        self.shift = nn.Parameter(torch.zeros(119, outputs))
        nn.init.uniform_(self.embedding.weight, -math.sqrt(3.0), math.sqrt(3.0))
        nn.init.zeros_(self.output.weight)

    def start(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, hidden]: the embedding of each atom's element."""
        return self.embedding(batch.z)

    def embed(self, batch: GraphBatch) -> torch.Tensor:
        """Return [N, interactions * hidden]: what the output layers of all modules see, side by side.

        The sum of the modules' linear output layers is `output`, one linear layer of this.
        """
        pairs = pairs_of(batch, self.reverses)
        basis = self.basis(distances(batch, pairs))
        x, seen = self.start(batch), []
        for block in self.blocks:
            x, features = block(x, basis, pairs)
            seen.append(features)
        return torch.cat(seen, dim=1)

    def head(self, features: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
        """features [N, interactions * hidden] -> [G, targets]: the linear output layers, scaled and shifted by
        element, and their sum or mean over the atoms. Raises InputError for crystals with `electrostatics`."""
        if self.electrostatics and batch.shift is not None:
            raise InputError(
                "model.electrostatics: sums over all pairs of a molecule and has no meaning for a periodic structure;"
                " set it to false"
            )
        of_atoms = self.output(features)
        # Energies are E_i = s_z sum_m y_i^m + c_z: a scale and a shift of the element.
        of_atoms = of_atoms * self.scale.index_select(0, batch.z) + self.shift.index_select(0, batch.z)
        graph_of_atom = batch.graph_of_atom()
        total = sum_by_graph(of_atoms[:, : self.targets], graph_of_atom, batch.graphs)
        if self.electrostatics:
            charges = neutral(of_atoms[:, self.targets :], graph_of_atom, batch)
            total = total + coulomb(charges, graph_of_atom, batch, self.cutoff)
        if self.readout == "mean":
            return total / batch.atom_ptr.diff().unsqueeze(1)
        return total


class Module(nn.Module):
    """Interaction, residual refinement of the atoms, and the output block up to its linear layer (figure 1)."""

    def __init__(self, spec: Spec):
        super().__init__()
        hidden = spec.hidden
        self.interaction = Interaction(hidden, spec.basis, spec.residual_interaction)
        self.atomic = nn.Sequential(*(Residual(hidden) for _ in range(spec.residual_atomic)))
        self.out = nn.Sequential(*(Residual(hidden) for _ in range(spec.residual_output)), ShiftedSoftplus())

    def forward(self, x: torch.Tensor, basis: torch.Tensor, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        """x [N, hidden], basis [P, K] -> x for the next module and the output's features, both [N, hidden]."""
        x = self.atomic(self.interaction(x, basis, pairs))
        return x, self.out(x)


class Interaction(nn.Module):
    """x_i <- u * x_i + W ssp(v_i) + b, where v_i is, refined by residual blocks,
    ssp(W_I ssp(x_i) + b_I) + sum_j (G g(r_ij)) * ssp(W_J ssp(x_j) + b_J); G is the attention mask, u the gate.
    """

    def __init__(self, hidden: int, basis: int, residual: int):
        super().__init__()
        self.hidden = hidden
        self.activation = ShiftedSoftplus()
        self.mask = Linear(basis, hidden, bias=False)
        # W_I and W_J, one above the other: both act on the same input.
        self.ends = Linear(hidden, 2 * hidden)
        self.residual = nn.Sequential(*(Residual(hidden) for _ in range(residual)), ShiftedSoftplus())
        self.update = dense(hidden)
        self.gate = nn.Parameter(torch.ones(hidden))
        nn.init.zeros_(self.mask.weight)
        nn.init.zeros_(self.ends.bias)
        for half in self.ends.weight.data.split(hidden):
            semi_orthogonal_(half)

    def forward(self, x: torch.Tensor, basis: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        own, heard = self.activation(self.ends(self.activation(x))).split(self.hidden, dim=1)
        weight = self.mask(basis)
        message = own + filtered_sum(heard.contiguous().to(weight.dtype), weight, pairs)
        return torch.addcmul(self.update(self.residual(message)), self.gate, x)


class Residual(nn.Module):
    """x + W2 ssp(W1 ssp(x) + b1) + b2: a pre-activation residual block."""

    def __init__(self, hidden: int):
        super().__init__()
        self.change = nn.Sequential(ShiftedSoftplus(), dense(hidden), ShiftedSoftplus(), dense(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.change(x)


class ExponentialBasis(nn.Module):
    """g_k(r) = phi(r) exp(-beta_k (exp(-r) - mu_k)^2), with learned beta_k and mu_k, both kept positive.

    At the start mu_k are spread evenly over exp(-cutoff)..1 (r in Angstrom) and beta_k = (2/K (1 - exp(-cutoff)))^-2.
    """

    def __init__(self, cutoff: float, count: int):
        super().__init__()
        self.cutoff = cutoff
        last = math.exp(-cutoff)
        width = (0.5 * count / (1.0 - last)) ** 2
        self.centres = nn.Parameter(_inverse_softplus(torch.linspace(1.0, last, count, dtype=torch.float64)).float())
        self.widths = nn.Parameter(_inverse_softplus(torch.full((count,), width, dtype=torch.float64)).float())

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """distance [P] Angstrom -> [P, count]."""
        centres, widths = nn.functional.softplus(self.centres), nn.functional.softplus(self.widths)
        from_centres = torch.exp(-distance).unsqueeze(1) - centres
        return cutoff_function(distance, self.cutoff).unsqueeze(1) * clamped_exp(-widths * from_centres.square())


def cutoff_function(distance: torch.Tensor, cutoff: float) -> torch.Tensor:
    """phi(r) = 1 - 6 (r/c)^5 + 15 (r/c)^4 - 10 (r/c)^3 below the cutoff c, 0 beyond it."""
    x = (distance / cutoff).clamp(max=1.0)
    return 1.0 - x**3 * (6.0 * x**2 - 15.0 * x + 10.0)


def neutral(charges: torch.Tensor, graph_of_atom: torch.Tensor, batch: GraphBatch) -> torch.Tensor:
    """Return charges [N, T] less the mean over their molecule, so that each sums to 0, its total charge."""
    excess = sum_by_graph(charges, graph_of_atom, batch.graphs) / batch.atom_ptr.diff().unsqueeze(1)
    return charges - excess.index_select(0, graph_of_atom)


def coulomb(charges: torch.Tensor, graph_of_atom: torch.Tensor, batch: GraphBatch, cutoff: float) -> torch.Tensor:
    """charges [N, T] in e -> [G, T] eV: k_e sum_{i<j} q_i q_j chi(r_ij) over all pairs of each molecule, where
    chi(r) = phi(2r) / sqrt(r^2 + 1) + (1 - phi(2r)) / r is shielded within half the cutoff.

    Waits for the device once: how many pairs there are depends on the molecules.
    """
    partners = (batch.atom_ptr[1:] - 1).index_select(0, graph_of_atom) - torch.arange(
        len(batch.z), device=batch.z.device
    )
    first = torch.repeat_interleave(partners)
    ends = partners.cumsum(0)
    second = first + 1 + torch.arange(len(first), device=first.device) - (ends - partners).index_select(0, first)
    distance = (batch.pos.index_select(0, first) - batch.pos.index_select(0, second)).norm(dim=-1)
    near = cutoff_function(2.0 * distance, cutoff)
    chi = near / (distance.square() + 1.0).sqrt() + (1.0 - near) / distance
    energy = COULOMB * charges.index_select(0, first) * charges.index_select(0, second) * chi.unsqueeze(1)
    return sum_by_graph(energy, graph_of_atom.index_select(0, first), batch.graphs)


def dense(hidden: int) -> Linear:
    """A layer as the authors start it: semi-orthogonal weights, no bias yet."""
    layer = Linear(hidden, hidden)
    nn.init.zeros_(layer.bias)
    semi_orthogonal_(layer.weight.data)
    return layer


def semi_orthogonal_(weight: torch.Tensor) -> None:
    """Fill with an orthogonal matrix, scaled to Glorot's variance 2 / (rows + columns)."""
    nn.init.orthogonal_(weight)
    weight *= math.sqrt(2.0 / (sum(weight.shape) * float(weight.square().mean())))


def _inverse_softplus(x: torch.Tensor) -> torch.Tensor:
    return x + torch.log(-torch.expm1(-x))
