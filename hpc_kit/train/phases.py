"""Where the time of a training's steps goes, in laps. A training that is not timed has what is here, which counts
nothing; the clocks of timed ones are in bench/clocks.py.
"""

from collections.abc import Callable


class Phases:
    """Counts nothing, at the cost of a few calls in a step."""

    def begin(self) -> None:
        """A batch is at hand."""

    def lap(self, part: str) -> None:
        """Count the time since `begin` or the last lap as `part`."""

    def summing(self) -> Callable[[], None] | None:
        """A sum over the ranks begins; return what to call where it has ended."""
