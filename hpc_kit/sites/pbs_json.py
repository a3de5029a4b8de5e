"""Reads the JSON of PBS's `qstat -F json`, which is not always JSON.

PBS writes one pair a line and copies environment variables of the job into it. Known faults: escapes that JSON does
not have (OpenPBS issue 2541, pull request 2049), numbers such as 005 (issue 1255), quotes inside text (pull request
830), raw tabs, a comma after the last pair. Not for: what the pairs mean (pbs.py).
"""

import json
import re

_PAIR = re.compile(r'^(\s*"(?:[^"\\]|\\.)*"\s*:\s*)(\S.*?)\s*$')
_NO_ESCAPE = re.compile(r'\\(?!["\\/bfnrtu])')
_BARE_QUOTE = re.compile(r'(?<!\\)"')


def read_json(text: str) -> dict:
    """Return the document, mended where it is wrong in a known way. Raises ValueError where it is wrong otherwise."""
    try:
        document = json.loads(text, strict=False)
    except ValueError:
        document = json.loads(_mended(text), strict=False)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _mended(text: str) -> str:
    lines = [_mended_pair(line) for line in text.splitlines() if line.strip()]
    for number, following in enumerate(lines[1:]):
        if following.lstrip()[0] in "}]":
            lines[number] = lines[number].rstrip().removesuffix(",")
    return "\n".join(lines)


def _mended_pair(line: str) -> str:
    pair = _PAIR.match(line)
    if pair is None:
        return line
    key, value = pair.groups()
    comma = "," if value.endswith(",") else ""
    value = value.removesuffix(",")
    if value[:1] in ("{", "[") or _is_json(value):
        return line
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return f"{key}{json.dumps(value)}{comma}"
    inner = _BARE_QUOTE.sub(r"\\\"", _NO_ESCAPE.sub("", value[1:-1]))
    mended = f'"{inner}"'
    return f"{key}{mended if _is_json(mended) else json.dumps(value[1:-1])}{comma}"


def _is_json(value: str) -> bool:
    try:
        json.loads(value, strict=False)
    except ValueError:
        return False
    return True
