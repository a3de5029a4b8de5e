"""The one reader of records: JSON, lines of JSON, and sealed YAML. Each error names the file and the line, what is
wrong, and what to do.

A record that is missing is the caller's to judge; one that is there and cannot be read, is damaged or has other
fields is an InputError; a disk that fails is a WorkError. A damaged line costs what that line said and no more.

Not for: what users write (spec/document.py), shard sets (data/manifest.py), checkpoints (train/checkpoint.py).
"""

import contextlib
import functools
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from hpc_kit.files import content_sha256, digest_of, is_of_disk
from hpc_kit.spec.document import Document
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.spec.yaml_text import read_yaml

Kind = TypeVar("Kind")
REMOVE = "remove it: nothing but what it said is lost"
AGAIN = "put it back, or remove done.json beside it, and 'hpc_kit resume' runs the task again"
ANEW = "put it back as it was, or submit job.yaml of its run anew"
_AT = re.compile(r" at line (\d+) column (\d+)$")


class Record(TypedDict):
    """Base of the records below: fields that a later version adds are kept."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)


class Process(Record):
    """process.json: the process of the last attempt."""

    attempt: int
    pid: int
    host: str
    job: str | None
    started_at: float


class Exit(Record):
    """exit.json: how the last attempt that could say so ended."""

    attempt: int
    exit_code: int | None
    ended: str


class Score(Record):
    """How good a task's work is so far."""

    name: str
    value: float | None
    unit: str


class Progress(Record):
    """progress.json: how far a task has come."""

    done: int
    total: int
    unit: str
    score: Score | None


class Stopped(Record):
    """stopped.json: why a task stopped early."""

    cause: str
    text: str


class Failed(Record):
    """failed.json: the error that ended the last attempt."""

    error: str
    text: str


class Epoch(Record):
    """A line of epochs.jsonl, as far as others than people read it."""

    epoch: int
    wall_s: float | None
    data_wait_s: float
    compute_s: float
    graphs: int


class Done(Record):
    """done.json: that the task is done, and the sha256 of each record that it leaves."""

    schema_version: int
    id: str
    finished_at: float
    records: dict[str, str]


class Fingerprint(Record):
    """fingerprint.json, as far as others than people read it."""

    schema_version: int
    sha256: str
    comparable: dict[str, Any]


class Image(Record):
    """image.json, as far as others than people read it."""

    sha256: str


class LedgerLine(Record):
    """A line of ledger.jsonl."""

    time: float
    task: str
    state: str
    attempt: int
    reason: NotRequired[str]
    hint: NotRequired[str]
    evidence: NotRequired[str]
    exit_code: NotRequired[int | None]
    again: NotRequired[bool]
    host: NotRequired[str]
    job: NotRequired[str | None]


class BlockLine(Record):
    """A line of blocks.jsonl."""

    time: float
    block: str
    state: str
    job: NotRequired[str]
    evidence: NotRequired[str]
    hourly: NotRequired[float]
    slots: NotRequired[int]
    elapsed_s: NotRequired[float]


def read_bytes(path: Path, remedy: str = REMOVE) -> bytes | None:
    """Return the content of a file, None where there is none. Raises InputError, WorkError."""
    with _opened(path, remedy) as file:
        return None if file is None else file.readall()


def file_sha256(path: Path, remedy: str = REMOVE) -> str | None:
    """Return the sha256 of a file, read in pieces, None where there is none. Raises InputError, WorkError."""
    with _opened(path, remedy) as file:
        return None if file is None else digest_of(file)


@contextlib.contextmanager
def _opened(path: Path, remedy: str) -> Iterator[io.FileIO | None]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in its place would wait for ever
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(f"{path}: is no file where a record was to be; {remedy}")
            yield file
    except FileNotFoundError:
        yield None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder where a record was to be; {remedy}") from None
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{path}: cannot be read: {error.strerror}") from None


def read_json(path: Path, kind: type[Kind], remedy: str = REMOVE) -> Kind | None:
    """Return a file of JSON as a `kind`, None where there is none. Raises InputError, WorkError."""
    content = read_bytes(path, remedy)
    return None if content is None else parse_json(path, content, kind, remedy)


def parse_json(path: Path, content: bytes, kind: type[Kind], remedy: str = REMOVE) -> Kind:
    """Return `content`, the bytes of the file `path`, as a `kind`. Raises InputError."""
    try:
        return _reader(kind).validate_json(content)
    except ValidationError as error:
        raise InputError(f"{_fault(path, content, error)}; {remedy}") from None


def read_lines(path: Path, kind: type[Kind] = dict[str, Any]) -> list[Kind]:
    """Return the lines of a file of JSON lines, each as a `kind`; [] where there is no file.

    A last line without its end, which a writer killed in the middle leaves behind, does not count. Damaged lines are
    left out, and the first of them is told on stderr once.
    """
    content = read_bytes(path, "put it back, or remove it with all that it said") or b""
    reader, found, faults = _reader(kind), [], []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        if line:
            try:
                found.append(reader.validate_json(line))
            except ValidationError as error:
                faults.append((line, error, number))
    if faults:
        line, error, number = faults[0]
        more = f", and {len(faults) - 1} more of this file" if len(faults) > 1 else ""
        skipped(f"{_fault(path, line, error, number)}; the line is left out{more}")
    return found


@functools.cache
def skipped(fault: str) -> None:
    """Say on stderr, once, that a line was left out."""
    print(fault, file=sys.stderr)


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return `fields` with the sha256 of their content, which a reader holds against them."""
    return {"sha256": content_sha256(fields), **fields}


def read_sealed_json(path: Path, remedy: str = ANEW) -> dict[str, Any] | None:
    """Return the fields of a sealed file of JSON with their seal, unchecked; None where there is none.

    Raises InputError where it is damaged, WorkError.
    """
    content = read_bytes(path, remedy)
    if content is None:
        return None
    try:
        fields = pydantic_core.from_json(content)
    except ValueError as error:
        raise InputError(f"{_place(path, content, str(error))}; {remedy}") from None
    return _fields(path, fields, remedy)


def sealed_json(fields: dict[str, Any], many: str) -> bytes:
    """Return `fields` with their seal as JSON: a line for each item of the list `many`, one for the rest."""
    head = json.dumps(sealed(fields) | {many: []})
    items = ",\n".join(json.dumps(item) for item in fields[many])
    return f"{head.removesuffix(']}')}\n{items}\n]}}\n".encode()


def read_sealed_yaml(path: Path, remedy: str = ANEW) -> Document | None:
    """Return the content of a sealed file of YAML with its seal, unchecked; None where there is none.

    Raises InputError where it is damaged, WorkError.
    """
    if read_bytes(path, remedy) is None:
        return None
    try:
        fields, places = read_yaml(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    return Document(str(path), _fields(path, fields, remedy), {key: f"{path}:{line}" for key, line in places})


def open_seal(path: Path, fields: dict[str, Any], remedy: str = ANEW) -> dict[str, Any]:
    """Return `fields` without their seal. Raises InputError where they are not what it was made of."""
    content = {key: value for key, value in fields.items() if key != "sha256"}
    if content_sha256(content) != fields.get("sha256"):
        raise InputError(f"{path}: was changed after it was written: its content is not that of its sha256; {remedy}")
    return content


def _fields(path: Path, fields: Any, remedy: str) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise InputError(f"{path}: is damaged: must hold keys and values; {remedy}")
    return fields


@functools.cache
def _reader(kind: type[Kind]) -> TypeAdapter[Kind]:
    return TypeAdapter(kind)


def _fault(path: Path, content: bytes, error: ValidationError, line: int | None = None) -> str:
    """Return what is wrong with `content`, all of the file or its line `line`, as `file:line: is damaged: what`."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _place(path, content, first["ctx"]["error"], line)
    where = str(path) if line is None else f"{path}:{line}"
    said = Document(where, pydantic_core.from_json(content), {}).told(error)[0].removeprefix(f"{where}: ")
    return f"{where}: is damaged: {said}"


def _place(path: Path, content: bytes, said: str, line: int | None = None) -> str:
    """Return what the parser of JSON `said` as `file:line:column: is damaged: what`."""
    if not content.strip():
        return f"{path}{'' if line is None else f':{line}'}: is empty"
    found = _AT.search(said)
    row, column = found.groups() if found else (1, 1)
    return f"{path}:{row if line is None else line}:{column}: is damaged: not valid JSON: {_AT.sub('', said)}"
