"""What users write as a checked model, and where each of its keys stands, so that an error can name file and line.

Not for: YAML itself (yaml_text.py), what the keys mean (job.py, site.py).
"""

import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.shipped import user_path
from hpc_kit.spec.text import control_character, cut
from hpc_kit.spec.yaml_text import MAX_DEPTH, Key, dotted, parse, read_yaml

Model = TypeVar("Model", bound=BaseModel)
MAX_ERRORS = 20  # of one file are told
_HOLDS_TEXT = (str, dict, list, tuple)


class Strict(BaseModel):
    """Base of all that users write: no unknown keys, no silent conversion of types, no control characters in any
    text (all of it may come to stand in a batch script), unchangeable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            names = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in names:
                    text = f"unknown key; {allowed(key, names)}"
                    raise PydanticCustomError("unknown_key", "{text}", {"text": text, "key": str(key)})
        return value

    @model_validator(mode="before")
    @classmethod
    def _lines_of_text(cls, value: Any) -> Any:
        for path, text in _texts(value, ()):
            if reason := control_character(text):
                raise PydanticCustomError("control_character", "{text}", {"text": reason, "path": path})
        return value


def _texts(value: Any, path: Key) -> Iterator[tuple[Key, str]]:
    """Yield every text in plain data, keys too, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield (*path, key), key
            if isinstance(item, _HOLDS_TEXT):  # no call for each number: plans of many tasks are read through here
                yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if isinstance(item, _HOLDS_TEXT):
                yield from _texts(item, (*path, index))


@dataclass(frozen=True)
class Document:
    """The content of one file (`data`) and the place of every key in it (`places`: key path -> "file:line")."""

    path: str
    data: dict
    places: dict[Key, str]

    def place(self, key: Key) -> str:
        """Return where `key`, or the nearest thing that encloses it, was written."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.path)

    def error(self, key: Key, message: str) -> InputError:
        """Return the error for `key` as `file:line: dotted.key: message`."""
        return InputError(f"{self.place(key)}: {dotted(key)}{cut(message, 1000)}")

    def with_value(self, key: Key, value: Any, place: str) -> "Document":
        """Return a copy in which `key` holds `value`, as if written at `place`."""
        if len(key) > MAX_DEPTH:
            raise InputError(f"{place}: nested deeper than {MAX_DEPTH} levels")
        data = copy.deepcopy(self.data)
        table = data
        for depth, part in enumerate(key[:-1]):
            if table.get(part) is None:
                table[part] = {}
            table = table[part]
            if not isinstance(table, dict):
                raise InputError(f"{place}: {dotted(key[: depth + 1])}holds a value, not keys of its own")
        table[key[-1]] = value
        places = {k: v for k, v in self.places.items() if k[: len(key)] != key} | {key: place}
        return Document(self.path, data, places)

    def check(self, model: type[Model]) -> Model:
        """Return the content as a `model`; raise InputError with one line for each thing that is wrong."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            lines = self.told(error)
            lines[MAX_ERRORS:] = [f"and {len(lines) - MAX_ERRORS} more"] * (len(lines) > MAX_ERRORS)
            raise InputError("\n".join(lines)) from None

    def told(self, error: ValidationError) -> list[str]:
        """Return each thing that pydantic found wrong, as `file:line: dotted.key: message`."""
        return [str(self.error(*self._explain(e))) for e in error.errors()]

    def _explain(self, error: dict) -> tuple[Key, str]:
        """Turn one of pydantic's errors into (key, message)."""
        key = self._real_key(error["loc"])
        kind, context, given = error["type"], error.get("ctx", {}), error["input"]
        if kind == "unknown_key":
            return (*key, context["key"]), context["text"]
        if kind == "control_character":
            return (*key, *context["path"]), context["text"]
        if kind == "missing":
            return (*key, error["loc"][-1]), "is missing"
        if kind == "literal_error":
            return key, _outside(given, context["expected"])
        if kind == "union_tag_invalid":
            name = context["discriminator"].strip("'")
            return (*key, name), _outside(context["tag"], context["expected_tags"])
        if kind == "union_tag_not_found":
            return (*key, context["discriminator"].strip("'")), "is missing"
        wanted = {
            "greater_than_equal": "must be at least {ge}",
            "greater_than": "must be greater than {gt}",
            "less_than_equal": "must be at most {le}",
            "less_than": "must be less than {lt}",
            "int_type": "must be a whole number",
            "int_from_float": "must be a whole number",
            "float_type": "must be a number",
            "finite_number": "must be a finite number",
            "bool_type": "must be true or false",
            "string_type": "must be text",
            "list_type": "must be a list",
            "dict_type": "must hold keys and values",
            "model_type": "must hold keys and values",
            "model_attributes_type": "must hold keys and values",  # of a union told apart by a key
            "too_short": "must not be empty",
            "string_pattern_mismatch": "must match {pattern}",
        }.get(kind)
        if wanted is None:
            return key, error["msg"].removeprefix("Value error, ")
        return key, f"{wanted.format(**context)} (got {cut(repr(given))})"

    def _real_key(self, loc: Iterable[str | int]) -> Key:
        """Drop from pydantic's location what is not in the file (the tags of unions)."""
        key: Key = ()
        here: Any = self.data
        for part in loc:
            if isinstance(here, dict) and part in here:
                key, here = (*key, part), here[part]
            elif isinstance(here, list) and isinstance(part, int) and part < len(here):
                key, here = (*key, part), here[part]
        return key


def parse_value(option: str, text: str) -> tuple[Key, Any]:
    """Return (key, value) of `option` `key=value`, where the value is written as in a job file: `3`, `1e-3`,
    `[0, 1]`, `null`, text. Raises InputError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{option} {text}: must be key=value, as in {option} train.epochs=3")

    def place(line: int, column: int) -> str:
        return f"{option} {key}: {f'line {line}, ' * (line > 1)}column {column} of its value"

    found, _ = parse(value, place)
    return tuple(key.strip().split(".")), found


def read_document(path: Path) -> Document:
    """Read a YAML file whose top level holds keys and values.

    Raises InputError where it cannot be read, is not YAML, or names a key twice.
    """
    data, lines = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold keys and values, as in 'name: my-job'")
    return Document(str(path), data, {key: f"{path}:{line}" for key, line in lines})


def read_extended(path: Path, find: Callable[[str, Path], Path], seen: tuple[Path, ...] = ()) -> Document:
    """Return the document at `path`, laid over the one it names as `extends` if it does: a file beside it, or what
    `find` returns for the name and `path`. Raises InputError."""
    document = read_document(path)
    if "extends" not in document.data:
        return document
    base = document.data["extends"]
    if user_path(path) in seen or not isinstance(base, str):
        raise document.error(("extends",), "must name another file, not itself in a circle")
    try:
        beside = path.parent / base
        below = beside if os.path.isfile(beside) else find(base, path)
    except InputError as error:
        raise document.error(("extends",), str(error)) from None
    data = {key: value for key, value in document.data.items() if key != "extends"}
    under = read_extended(below, find, (*seen, user_path(path)))
    return Document(document.path, _laid_over(under.data, data), under.places | document.places)


def _laid_over(under: dict, over: dict) -> dict:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def _outside(given: Any, expected: str) -> str:
    names = re.findall(r"'([^']+)'", expected)
    return f"{cut(repr(given))} is not allowed; {allowed(given, names)}"
