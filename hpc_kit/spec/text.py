"""Text from users: what it may hold, and how it is shown in a message."""

import re

# Line breaks and other control characters, and halves of characters: none of them belongs in a name, a path or a line
# of a batch script.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BREAKS = "\n\r\v\f\x85\u2028\u2029"


def control_character(text: str) -> str | None:
    """Return what to say of the first control character in `text`; None where there is none."""
    if (found := CONTROL.search(text)) is None:
        return None
    if found[0] in _BREAKS:
        return "must be one line: it holds a line break (as a block after '|' or '>' does; after '>-' it has none)"
    return f"must hold no control characters (U+{ord(found[0]):04X} in it)"


def printable(text: str) -> str:
    """Return `text` with every control character that is no end of a line written out, as in '\\x1b'."""
    return "\n".join(CONTROL.sub(lambda found: ascii(found[0])[1:-1], line) for line in text.split("\n"))


def cut(text: str, length: int = 80) -> str:
    """Return `text`, or its beginning where it is longer than `length`."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
