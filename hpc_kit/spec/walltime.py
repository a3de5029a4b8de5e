"""Times as schedulers write them: hours:minutes:seconds."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from hpc_kit.spec.text import cut

_MOST_S = 99999 * 3600


_FORM = re.compile(r"([0-9]{2,5}):([0-9]{2}):([0-9]{2})")
# Other ways to write a time that name hours, minutes and seconds all the same: a single digit, or days before them.
_MEANT = re.compile(r"(?:([0-9]{1,3})-)?([0-9]{1,5}):([0-9]{1,5}):([0-9]{1,5})")


def _checked(value: Any) -> str:
    if type(value) is int and 0 < value <= _MOST_S:
        raise ValueError(f"must be hours:minutes:seconds: write '{in_words(value)}' if {value} are seconds")
    if not isinstance(value, str):
        raise ValueError(f"must be hours:minutes:seconds, as in '02:00:00' (got {cut(repr(value))})")
    found = _FORM.fullmatch(value)
    if found and int(found[2]) < 60 and int(found[3]) < 60:
        return value
    if (meant := _MEANT.fullmatch(value)) is None:
        raise ValueError(f"must be hours:minutes:seconds, as in '02:00:00' (got {cut(repr(value))})")
    days, hours, minutes, seconds = (int(part or 0) for part in meant.groups())
    right = f"write '{in_words(86400 * days + 3600 * hours + 60 * minutes + seconds)}'"
    for number, name in ((minutes, "minutes"), (seconds, "seconds")):
        if number > 59:
            raise ValueError(f"{value!r} has {number} {name}, and 59 are the most: {right}")
    why = "days are counted in hours" if meant[1] else "each part has two digits"
    raise ValueError(f"{value!r} must be hours:minutes:seconds, and {why}: {right}")


def _some_time(value: str) -> str:
    if in_seconds(value) == 0:
        raise ValueError("must be longer than no time at all (got '00:00:00')")
    return value


Duration = Annotated[str, BeforeValidator(_checked)]
Walltime = Annotated[Duration, AfterValidator(_some_time)]


def in_seconds(walltime: str) -> int:
    """Return "02:00:00" as 7200."""
    hours, minutes, seconds = map(int, walltime.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def in_words(seconds: float) -> str:
    """Return 7200 as "02:00:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
