"""Times as schedulers write them: hours:minutes:seconds."""

from typing import Annotated

from pydantic import AfterValidator


def _checked(value: str) -> str:
    parts = value.split(":")
    if len(parts) != 3 or not all(p.isdigit() and len(p) >= 2 for p in parts) or max(parts[1:]) > "59":
        raise ValueError(f"must be hours:minutes:seconds, as in '02:00:00' (got {value!r})")
    return value


Walltime = Annotated[str, AfterValidator(_checked)]


def in_seconds(walltime: str) -> int:
    """Return "02:00:00" as 7200."""
    hours, minutes, seconds = map(int, walltime.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def in_words(seconds: float) -> str:
    """Return 7200 as "02:00:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
