"""What a preparation could not use: rejects.jsonl, a line with identifier and reason each; its commonest reasons."""

import collections
import json
import re
from collections.abc import Iterable
from pathlib import Path

from hpc_kit.files import write_atomically
from hpc_kit.spec.errors import InputError

REJECTS = "rejects.jsonl"
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.eE+-]*")  # quoted words and numbers
_LONGEST = 160  # characters of a reason, in a message


def write_rejects(folder: Path, rejects: Iterable[tuple[str, str]], name: str = REJECTS) -> None:
    """Write (id, reason) of each reject into `folder`, as the file `name`."""
    lines = "".join(json.dumps({"id": id, "reason": reason}) + "\n" for id, reason in rejects)
    write_atomically(folder / name, lines.encode())


def read_reasons(folder: Path) -> list[str]:
    """Return the reason of each reject in `folder`. Raises InputError naming the line that is none."""
    path = folder / REJECTS
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    reasons = []
    for number, line in enumerate(lines, start=1):
        try:
            reasons.append(str(json.loads(line)["reason"]))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}, line {number}: holds no identifier with a reason: altered or damaged"
            ) from None
    return reasons


def commonest(reasons: Iterable[str], most: int = 3) -> str:
    """Return the commonest reasons with their counts, for a message: "60 x no row in a.csv; 1 x no atoms".

    Reasons that differ in numbers and quoted words alone are one, shown by its first.
    """
    first: dict[str, str] = {}
    counts: collections.Counter[str] = collections.Counter()
    for reason in reasons:
        kind = _VARYING.sub("?", reason)
        first.setdefault(kind, " ".join(reason.split()))
        counts[kind] += 1
    shown = [f"{count} x {first[kind][:_LONGEST]}" for kind, count in counts.most_common(most)]
    others = counts.total() - sum(count for _, count in counts.most_common(most))
    return "; ".join([*shown, *([f"{others} for other reasons"] if others else [])])
