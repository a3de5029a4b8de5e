"""The one reader and the one writer of YAML: bounded in size, depth and number of values, every error with its place.

It turns the events of PyYAML's parser into plain data and the place of each key in one pass and without recursion. A
loader that keeps places, ruamel.yaml, was measured beside it: 10 ms for a site file against 1, 0.9 s for 100 kB
against 0.1, no bound on anything, and tracebacks for deep nesting and `!!int foo`.
Not for: what keys mean (document.py and the models).
"""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpc_kit.spec.errors import InputError
from hpc_kit.spec.text import cut, printable

Key = tuple[str | int, ...]
Place = Callable[[int, int], str]  # line and column, from 1 -> what an error begins with

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000  # aliases count with all that they stand for
MAX_DEPTH = 40
MAX_DIGITS = 40  # of a number

_Parser = getattr(yaml, "CLoader", yaml.Loader)  # for its events alone; the same in C, fifty times as fast
# YAML 1.2's scalars: `1e-3` is a number, `02:00:00` and `no` are text.
_FORMS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^[-+]?[0-9]+$"),
    "float": re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
_TAG = "tag:yaml.org,2002:"
_STRANGE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Fault(Exception):
    """Something wrong at a line and a column, both from 0."""

    def __init__(self, line: int, column: int, text: str):
        super().__init__(text)
        self.line, self.column = line, column


@dataclass
class _Open:
    """A list or mapping whose end has not come: where it stands, and the key that waits for its value."""

    value: dict | list
    path: Key
    anchor: str | None
    first: int  # of the places that belong to it
    key: str | None = None
    line: int = 0


@dataclass
class _Anchored:
    value: Any
    path: Key
    places: list[tuple[Key, int]]


class _Assembly:
    """Data in the making. `places` are the lines of all keys so far, in the order in which they were written."""

    def __init__(self) -> None:
        self.places: list[tuple[Key, int]] = []
        self.result: Any = None
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}  # None: not yet at its end
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the parser's next event. Raises _Fault."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _at(event, "a second document begins here; a file holds one")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            kind, value = ("map", {}) if isinstance(event, yaml.MappingStartEvent) else ("seq", [])
            if event.tag not in (None, "!", _TAG + kind):
                raise _at(event, _unknown(event.tag))
            path = self._place(event)
            self._open.append(_Open(value, path, event.anchor, len(self.places)))
            if event.anchor:
                self._anchors[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = self._open.pop()
            if ended.anchor:
                self._anchors[ended.anchor] = _Anchored(ended.value, ended.path, self.places[ended.first :])
            self._put(ended.value)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        value = _scalar(event)
        above = self._open[-1] if self._open else None
        if above is not None and isinstance(above.value, dict) and above.key is None:
            if not isinstance(value, str):
                raise _at(event, f'a key must be text: write "{cut(event.value)}" in quotes')
            if value in above.value:
                first = dict(self.places)[(*above.path, value)] + 1
                raise _at(event, f"{dotted((*above.path, value))}is written twice (first in line {first})")
            above.key, above.line = value, event.start_mark.line
            return
        path = self._place(event)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(value, path, [])
        self._put(value)

    def _alias(self, event: yaml.AliasEvent) -> None:
        if event.anchor not in self._anchors:
            raise _at(event, f"*{event.anchor} refers to nothing: no &{event.anchor} stands before it")
        found = self._anchors[event.anchor]
        if found is None:
            raise _at(event, f"*{event.anchor} stands inside of itself")
        path = self._place(event)
        for inner, line in found.places:
            self._add((*path, *inner[len(found.path) :]), line, event)
        self._put(copy.deepcopy(found.value))

    def _place(self, event: yaml.Event) -> Key:
        """Return the path of the value that begins with `event`, and write down its line."""
        if not self._open:
            return ()
        above = self._open[-1]
        if isinstance(above.value, list):
            path, line = (*above.path, len(above.value)), event.start_mark.line
        elif above.key is None:
            raise _at(event, "a key must be text, not a list, keys and values, or an alias")
        else:
            path, line = (*above.path, above.key), above.line
        self._add(path, line, event)
        return path

    def _add(self, path: Key, line: int, event: yaml.Event) -> None:
        self.places.append((path, line))
        if len(self.places) > MAX_VALUES:
            raise _at(event, f"more than {MAX_VALUES} values, those of aliases included")
        if len(path) > MAX_DEPTH:
            raise _at(event, f"nested deeper than {MAX_DEPTH} levels")

    def _put(self, value: Any) -> None:
        if not self._open:
            self.result = value
        elif isinstance(self._open[-1].value, list):
            self._open[-1].value.append(value)
        else:
            self._open[-1].value[self._open[-1].key] = value
            self._open[-1].key = None


def parse(text: str, place: Place) -> tuple[Any, list[tuple[Key, int]]]:
    """Return the data that `text` holds, and the line of every key, from 1.

    Raises InputError that begins with `place(line, column)`.
    """
    assembly = _Assembly()
    try:
        if len(text) > MAX_BYTES:
            raise _Fault(0, 0, f"larger than {MAX_BYTES} bytes")
        if strange := _STRANGE.search(text):
            before = text[: strange.start()].splitlines(keepends=True) or [""]
            whole = before[-1].endswith(("\n", "\r"))
            line, column = (len(before), 0) if whole else (len(before) - 1, len(before[-1]))
            raise _Fault(line, column, f"the character U+{ord(strange[0]):04X} is not allowed")
        parser = _Parser(text)
        try:
            while parser.check_event():
                assembly.take(parser.get_event())
        finally:
            parser.dispose()
    except _Fault as fault:
        raise InputError(f"{place(fault.line + 1, fault.column + 1)}: {fault}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = place(mark.line + 1, mark.column + 1) if mark else place(1, 1)
        raise InputError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    return assembly.result, [(key, line + 1) for key, line in assembly.places]


def read_yaml(path: Path) -> tuple[Any, list[tuple[Key, int]]]:
    """Return the data in a file and the line of every key. Raises InputError as `path:line:column: what`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(errors="replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InputError(f"{path}:{line}:{column}: is not text in UTF-8") from None
    return parse(text, lambda line, column: f"{path}:{line}:{column}")


def write_yaml(value: Any) -> str:
    """Return plain data as text that `parse` reads as the same data."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=118)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    """Quotes all text that YAML 1.2 or 1.1 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _form in _FORMS.items():
    _Dumper.add_implicit_resolver(_TAG + _name, _form, None)


def dotted(key: Key) -> str:
    """Return `key` as an error begins with it: "train.epochs: "; "" for the whole."""
    return printable(".".join(cut(str(part)) for part in key)).replace("\n", "\\n") + ": " if key else ""


def _at(event: yaml.Event, text: str) -> _Fault:
    return _Fault(event.start_mark.line, event.start_mark.column, text)


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Return the value of a scalar: text in quotes stays text, the rest goes by its form, or by its tag."""
    text, tag = event.value, event.tag
    if tag is None and event.implicit[0]:
        kind = next((name for name, form in _FORMS.items() if form.fullmatch(text)), "str")
    else:
        kind = "str" if tag in (None, "!") else tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if kind not in _FORMS:
        raise _at(event, _unknown(tag))
    if not _FORMS[kind].fullmatch(text):
        raise _at(event, f"not valid YAML: {cut(text)!r} is no {kind}")
    if kind in ("null", "bool"):
        return None if kind == "null" else text.lower() == "true"
    if len(text) > MAX_DIGITS:
        raise _at(event, f"a number of {len(text)} characters; {MAX_DIGITS} are enough")
    value = int(text) if kind == "int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if (kind == "int" and not -(2**63) <= value < 2**63) or (text[-1].isdigit() and math.isinf(value)):
        raise _at(event, f"the number {text} is too large")
    return value


def _unknown(tag: str) -> str:
    return f"not valid YAML: the tag {cut(tag.replace(_TAG, '!!'))} is not known"
