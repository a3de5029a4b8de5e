"""One thing looked at, in an environment or on a site: what was seen, and what to do where it is no pass."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """The result of one check; `do` is for a warn or fail."""

    name: str
    state: Literal["pass", "warn", "fail"]
    seen: str
    do: str = ""
