"""`data.split` of a job file: its forms, told apart by the keys that are written. docs/splits.md has the rules.

Not for: drawing a split (data/splits.py), reading split files (data/split_file.py).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hpc_kit.spec.document import Strict
from hpc_kit.spec.errors import allowed

PARTS = ("train", "val", "test")
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
GroupBy = Literal["formula", "scaffold"]


class _Form(Strict):
    """One way to split. `marks` are the keys that tell this form from the others."""

    marks: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key in cls.model_fields:
                continue
            names = list(dict.fromkeys(name for form in reversed(FORMS) for name in form.model_fields))
            text = f"unknown key; {allowed(key, names)}"
            if key in names:
                beside = ", ".join(name for name in cls.model_fields if name not in cls.marks[:1])
                text = f"does not go with {cls.marks[0]}, which allows beside it: {beside or 'nothing'}"
            raise PydanticCustomError("unknown_key", "{text}", {"text": text, "key": str(key)})
        return value


class Fractions(_Form):
    """Fractions of the graphs that have the target, drawn at random with `seed`."""

    train: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    val: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    seed: Seed = 0

    @model_validator(mode="after")
    def _parts_of_one(self) -> "Fractions":
        if self.val + self.test >= 1.0:
            raise ValueError(f"val + test must be less than 1 (got {self.val + self.test:g})")
        if self.train + self.val + self.test > 1.0 + 1e-9:
            total = self.train + self.val + self.test
            raise ValueError(f"train + val + test must not exceed 1 (got {total:g})")
        return self


class Counts(_Form):
    """So many graphs of those that have the target, drawn at random with `seed`."""

    train: Count
    val: Count
    test: Annotated[int, Field(ge=0)]
    seed: Seed = 0

    @field_validator(*PARTS, mode="before")
    @classmethod
    def _no_fraction(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float):
            raise ValueError(
                f"{value:g} is a fraction beside counts: give all of train, val and test as counts, or all as"
                " fractions below 1"
            )
        return value


class Groups(Fractions):
    """As fractions, but graphs of one formula or one Murcko scaffold are never in two parts."""

    marks = ("group",)
    group: GroupBy


class Folds(_Form):
    """k-fold: fold number `fold` of `folds` is the test part; `val` is a fraction of all, drawn from the rest."""

    marks = ("folds", "fold")
    folds: Annotated[int, Field(ge=2)]
    fold: Annotated[int, Field(ge=0)]
    val: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    seed: Seed = 0
    group: GroupBy | None = None

    @model_validator(mode="after")
    def _fold_of_folds(self) -> "Folds":
        if self.fold >= self.folds:
            raise ValueError(f"fold counts from 0: it must be 0 to {self.folds - 1} (got {self.fold})")
        if self.val + 1 / self.folds >= 1.0 - 1e-9:
            raise ValueError(f"val {self.val:g} and a test part of 1/{self.folds} leave nothing to train on")
        return self


class Published(_Form):
    """A split that the data set's own manifest carries, by name."""

    marks = ("published",)
    published: Annotated[str, Field(min_length=1)]


class FromFile(_Form):
    """A split file: a manifest that an earlier run left in splits/, or a plain file of ids. `sha256` pins it."""

    marks = ("manifest", "sha256")
    manifest: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


# In the order in which their marks decide. A tag must not be a key of the file.
FORMS = (FromFile, Published, Folds, Groups, Counts, Fractions)


def _form(value: Any) -> str:
    """Return the tag of the form that `value` (what a file holds, or a model) is written in."""
    if not isinstance(value, dict):
        return type(value).__name__ if isinstance(value, FORMS) else "Fractions"
    for form in FORMS:
        if any(mark in value for mark in form.marks):
            return form.__name__
    return "Counts" if any(type(value.get(part)) is int and value[part] >= 1 for part in PARTS) else "Fractions"


Split = Annotated[
    Annotated[FromFile, Tag("FromFile")]
    | Annotated[Published, Tag("Published")]
    | Annotated[Folds, Tag("Folds")]
    | Annotated[Groups, Tag("Groups")]
    | Annotated[Counts, Tag("Counts")]
    | Annotated[Fractions, Tag("Fractions")],
    Discriminator(_form),
]
