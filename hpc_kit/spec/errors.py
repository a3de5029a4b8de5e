"""The ways a command ends before its work is done. The command line turns each into a message and an exit code."""

import difflib
from collections.abc import Iterable

PREEMPTED = 75  # sysexits.h: EX_TEMPFAIL


class InputError(Exception):
    """The user's input is wrong: exit code 2. The message says what, where and how to mend it."""


class WorkError(Exception):
    """The input was right and the work failed all the same: exit code 1."""


CAUSES = ("preempted", "time_limit")  # why a task stops by itself before its end


class NotFinite(WorkError):
    """A loss, a gradient or a prediction is no finite number."""


class OutOfMemory(WorkError):
    """There is not the memory for it."""


class RankLost(WorkError):
    """Another rank of the task is gone, and its cause is not known here."""


class Preempted(Exception):
    """The machine is wanted back, and the work so far is kept: exit code PREEMPTED. The same command goes on.

    `cause` is one of CAUSES: a signal that asks for it, or the end of the time that was given.
    """

    def __init__(self, text: str, cause: str):
        super().__init__(text)
        self.cause = cause


def allowed(word: str, names: Iterable[str]) -> str:
    """Return "did you mean 'x'? allowed: x, y" for a word outside `names`; without the question if none is near."""
    names = list(names)
    near = difflib.get_close_matches(str(word)[:200], names, n=1, cutoff=0.6)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}allowed: {', '.join(names)}"
