"""From records of a source to flat arrays, structure by structure: what cannot be used is told apart, with why."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from hpc_kit.data.shards import Arrays, check_edges, check_structure, concatenate, pack
from hpc_kit.data.sources import Source
from hpc_kit.data.structures import RejectedError, Structure
from hpc_kit.files import is_of_disk
from hpc_kit.spec.data import Graph
from hpc_kit.spec.errors import WorkError

Records = list[tuple[str, Any, str]]  # (id, raw record, fault: why it is not to be used, or "")


def unique(records: Iterator[tuple[str, Any]], limit: int | None = None) -> Iterator[tuple[str, Any, str]]:
    """Yield (id, raw, fault) of up to `limit` records; the fault of an id seen before says so."""
    seen: set[str] = set()
    for id, raw in itertools.islice(records, limit):
        if id in seen:
            yield id, None, "identifier used twice: the first one is kept"
        else:
            seen.add(id)
            yield id, raw, ""


def chunks(records: Iterator, size: int) -> Iterator[list]:
    """Yield lists of `size` records, the last of which may be shorter."""
    while chunk := list(itertools.islice(records, size)):
        yield chunk


def convert(
    source: Source, records: Records, targets: Iterable[str], graph: Graph | None
) -> tuple[list[tuple[Structure, Arrays]], list[tuple[str, str]]]:
    """Return (structure, its arrays) of the records that can be used, and (id, reason) of the others.

    One bad structure ends nothing, whatever a reader raises at it. Raises OSError (disk) and WorkError (memory).
    """
    parts, rejects, targets = [], [], list(targets)
    for id, raw, fault in records:
        try:
            if fault:
                raise RejectedError(fault)
            structure = source.convert(id, raw)
            check_structure(structure)
            part = pack([structure], targets, graph)
            if graph is not None:
                check_edges(part)
            parts.append((structure, part))
        except RejectedError as error:
            rejects.append((id, str(error)))
        except MemoryError as error:  # not the structure's fault alone: rejected, it would be missing by chance
            raise WorkError(
                f"{id}: not enough memory for it: {error}; what is finished is kept: run the same command again with"
                " fewer --workers or more memory, or leave it out"
            ) from None
        except Exception as error:
            if isinstance(error, OSError) and is_of_disk(error):
                raise
            rejects.append((id, f"{type(error).__name__}: {error}"))
    return parts, rejects


def to_arrays(
    source: Source, records: Records, targets: Iterable[str], graph: Graph | None
) -> tuple[Arrays | None, list[tuple[str, str]]]:
    """Return the usable records as arrays, None where there are none, and (id, reason) of the others."""
    parts, rejects = convert(source, records, targets, graph)
    return concatenate([arrays for _, arrays in parts]) if parts else None, rejects
