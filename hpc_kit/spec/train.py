"""`train:` of a job file: how the weights are fitted.

Not for: the fitting (hpc_kit/train/).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hpc_kit.spec.document import Strict
from hpc_kit.spec.models import Positive, PositiveFloat
from hpc_kit.spec.walltime import Walltime

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Plateau(Strict):
    """schedule plateau: the rate is multiplied by `factor` after `patience` epochs without a better validation error,
    and never falls below `floor`."""

    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    patience: Positive = 10
    floor: NonNegativeFloat = 0.0


class EarlyStopping(Strict):
    """Training ends after `patience` epochs whose validation error is not better by more than `min_delta`."""

    patience: Positive = 20
    min_delta: NonNegativeFloat = 0.0


class Weights(Strict):
    """The file that training starts from: a best.pt of this package, or a checkpoint of the model's own package.
    `sha256` pins it."""

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Train(Strict):
    """How the weights are fitted. A batch holds up to `batch_size` graphs, and no more than `batch_atoms` atoms and
    `batch_edges` edges where those are set; an optimiser step follows every `accumulate` batches. `clip` bounds the
    gradient's norm. `warmup` counts optimiser steps. `huber_delta` is in standard deviations of the target.

    With data.forces the loss is energy_weight x (that of energies) + force_weight x (that of force components), in
    units of eV and eV/Angstrom. `ema` is the decay of a moving average of the weights, which is what is validated and
    kept. `atom_references` takes a sum over atoms off the first target before it is learned: "fit" finds the value of
    each element by least squares in the training part; or element -> value. `compile` runs the model through
    torch.compile. `start_from` loads weights first. `checkpoint_every` writes last.pt inside epochs that take longer.
    """

    epochs: Positive = 100
    batch_size: Positive = 128
    batch_atoms: Positive | None = None
    batch_edges: Positive | None = None
    accumulate: Positive = 1
    optimizer: Literal["adam", "adamw", "sgd", "lamb"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    plateau: Plateau = Plateau()
    warmup: Annotated[int, Field(ge=0)] = 0
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = None
    loss: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: PositiveFloat = 1.0
    energy_weight: NonNegativeFloat = 0.2
    force_weight: NonNegativeFloat = 0.8
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    early_stopping: EarlyStopping | None = None
    atom_references: Literal["fit"] | dict[str, float] | None = None
    compile: bool = False
    start_from: Weights | None = None
    checkpoint_every: Walltime | None = None

    @field_validator("start_from", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("atom_references", mode="before")
    @classmethod
    def _known_elements(cls, value: Any) -> Any:
        if isinstance(value, dict):
            from ase.data import chemical_symbols  # a tenth of a second that most jobs do not need

            for symbol in value:
                if symbol not in chemical_symbols[1:]:
                    raise ValueError(f"{symbol!r} is no element; as in {{H: -13.6, C: -1029.5}}")
        elif value not in ("fit", None):
            raise ValueError(f"must be fit, null, or element -> value (got {value!r})")
        return value

    @model_validator(mode="after")
    def _what_goes_together(self) -> "Train":
        if self.schedule == "one_cycle" and self.warmup:
            raise ValueError("schedule one_cycle rises by itself: leave warmup at 0")
        for key, needs, value in (("plateau", "schedule", "plateau"), ("huber_delta", "loss", "huber")):
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default:
                if getattr(self, needs) != value:
                    raise ValueError(f"{key} has no effect without {needs}: {value}")
        return self
