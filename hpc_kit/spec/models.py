"""`model:` of a job file: one class a model, its published hyperparameters as defaults.

Not for: the models themselves (hpc_kit/models/, one file a name). Cutoffs and neighbours are `data.graph`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from hpc_kit.spec.document import Strict

Positive = Annotated[int, Field(ge=1)]
Two = Annotated[int, Field(ge=2)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Model(Strict):
    element_features: ClassVar[bool] = False  # whether atoms come in as features of their elements (data/features.py)
    for_forces: ClassVar[bool] = True  # whether its energies are smooth in the positions, and were tested for it

    @property
    def sums_over_atoms(self) -> bool:
        """Whether the output grows with the number of atoms, as an energy does."""
        return getattr(self, "readout", "mean") == "sum"


class CGCNN(_Model):
    """CGCNN (Xie & Grossman 2018, doi 10.1103/PhysRevLett.120.145301) over a list of edges; defaults of its code."""

    element_features = True
    for_forces = False
    name: Literal["cgcnn"] = "cgcnn"
    atom_features: Positive = 64
    convolutions: Positive = 3
    hidden: Positive = 128
    hidden_layers: Positive = 1
    gaussian_step: PositiveFloat = 0.2


class CGCNNMatrix(CGCNN):
    """CGCNN as published: every atom's neighbours padded to `data.graph.max_neighbors`, which must be set."""

    name: Literal["cgcnn_matrix"] = "cgcnn_matrix"


class SchNet(_Model):
    """SchNet (Schuett et al. 2017, arXiv:1706.08566): widths and counts.

    `filter_points` computes the filters at that many distances and interpolates between them: faster, not exact.
    """

    name: Literal["schnet"] = "schnet"
    hidden: Two = 128
    filters: Positive = 128
    interactions: Positive = 6
    gaussians: Two = 50
    filter_points: Annotated[int, Field(ge=16)] | None = None
    readout: Literal["sum", "mean"] = "sum"


class PhysNet(_Model):
    """PhysNet (Unke & Meuwly 2019, doi 10.1021/acs.jctc.9b00181). `electrostatics` adds the Coulomb energy of learned
    charges between all pairs of a molecule; it is for molecules only."""

    name: Literal["physnet"] = "physnet"
    hidden: Positive = 128
    basis: Two = 64
    interactions: Positive = 5
    residual_interaction: Annotated[int, Field(ge=0)] = 3
    residual_atomic: Annotated[int, Field(ge=0)] = 2
    residual_output: Annotated[int, Field(ge=0)] = 1
    electrostatics: bool = False
    readout: Literal["sum", "mean"] = "sum"


class MPNN(_Model):
    """MPNN with an edge network, a GRU and Set2Set (Gilmer et al. 2017, arXiv:1704.01212, its enn-s2s)."""

    name: Literal["mpnn"] = "mpnn"
    hidden: Positive = 64
    edge_hidden: Positive = 128
    steps: Positive = 3
    set2set_steps: Positive = 3
    gaussians: Two = 50


class MPNNTransformer(MPNN):
    """MPNN with `attention_layers` of `heads`-headed attention after message passing."""

    name: Literal["mpnn_transformer"] = "mpnn_transformer"
    attention_layers: Positive = 2
    heads: Positive = 4

    @model_validator(mode="after")
    def _whole_heads(self) -> "MPNNTransformer":
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class TorchMDET(_Model):
    """TorchMD-NET's equivariant transformer (Thoelke & De Fabritiis 2022, arXiv:2202.02541), as for QM9.

    For MD17 its authors use hidden 128, layers 6, basis 32. `distance_influence` says what the distance filter acts
    on; `vector_cutoff` fades vector messages out at the cutoff too, so that the energy has no step there.
    """

    name: Literal["torchmd_et"] = "torchmd_et"
    hidden: Two = 256
    layers: Positive = 8
    heads: Positive = 8
    basis: Two = 64
    basis_kind: Literal["expnorm", "gaussian"] = "expnorm"
    trainable_basis: bool = False
    distance_influence: Literal["keys", "values", "both", "none"] = "both"
    neighbor_embedding: bool = True
    vector_cutoff: bool = False
    readout: Literal["sum", "mean"] = "sum"

    @model_validator(mode="after")
    def _heads_share_features(self) -> "TorchMDET":
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        return self


class ALIGNN(_Model):
    """ALIGNN (Choudhary & DeCost 2021, doi 10.1038/s41524-021-00650-1); defaults of its code."""

    element_features = True
    for_forces = False
    name: Literal["alignn"] = "alignn"
    alignn_layers: Annotated[int, Field(ge=0, le=4)] = 4
    gcn_layers: Annotated[int, Field(ge=0, le=4)] = 4
    hidden: Positive = 256
    embedding: Positive = 64
    edge_bins: Two = 80
    triplet_bins: Two = 40


class Foreign(_Model):
    """A module of the user's own: `import: package.module:Class`, called as Class(**args).

    It takes a torch_geometric Data batch, or with `takes: dgl` upstream ALIGNN's (graph, line graph), with
    `takes: dgl_lattice` those and the cells, as ALIGNN has wanted since 2024, and returns
    [G, targets], or [G] for one target. Work on the features of atoms needs the class's embed and head as well
    (docs/training.md).
    """

    model_config = ConfigDict(serialize_by_alias=True)

    module: Annotated[str, Field(alias="import", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    args: dict[str, Any] = {}
    takes: Literal["pyg", "dgl", "dgl_lattice"] = "pyg"
    readout: Literal["sum", "mean"] = "mean"

    @property
    def name(self) -> str:
        return self.module


_Named = Annotated[
    CGCNN | CGCNNMatrix | SchNet | PhysNet | MPNN | MPNNTransformer | TorchMDET | ALIGNN, Field(discriminator="name")
]


def _form(value: Any) -> str:
    foreign = "import" in value if isinstance(value, dict) else isinstance(value, Foreign)
    return "own module" if foreign else "named"


Model = Annotated[
    Annotated[Foreign, Tag("own module")] | Annotated[_Named, Tag("named")], Discriminator(_form)
]  # tags are no keys of a file
