"""Where data comes from: one module a source, and the registry that opens one by name.

A source reads what others published and yields structures with their targets. It does not look for
overlapping atoms, duplicate ids or NaN positions, which the preparation checks alike for all sources.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from hpc_kit.data.manifest import Target
from hpc_kit.data.structures import Structure
from hpc_kit.files import is_of_disk
from hpc_kit.spec.errors import InputError, WorkError, allowed

SOURCES = {
    "qm9": "QM9: 130,831 small organic molecules, 15 properties and 4 atomisation energies",
    "md17": "MD17 and rMD17: frames of one molecule's dynamics with energies and forces",
    "jarvis": "JARVIS-DFT 3D: crystals with up to 29 properties",
    "hmof": "hypothetical MOFs: CIF files and a table of CO2 working capacities",
    "core_mof": "CoRE MOF 2019 and 2014: experimental MOFs with pore sizes, surface areas and void fractions",
    "smiles": "molecules by their SMILES, with a 3-D structure made by RDKit, and optional targets",
    "files": "your own structures: any files that ASE reads, with an optional CSV file of targets",
}


class Source(Protocol):
    """One data set.

    name: of the data set, for the manifest. origin: what it is, whose, under which licence, read from what, and
    the options that change its content; JSON-able, without machine paths. splits: published splits, name ->
    {"train": ids, "val": ids, "test": ids}. An instance is picklable: `convert` runs in worker processes.
    """

    name: str
    targets: dict[str, Target]
    origin: dict[str, Any]
    splits: dict[str, dict[str, list[str]]]

    def records(self) -> Iterator[tuple[str, Any]]:
        """Yield (id, raw record) in a fixed order, cheaply and one at a time; a raw record is picklable."""

    def convert(self, id: str, raw: Any) -> Structure:
        """Turn one raw record into a structure. Raises RejectedError where it cannot be used."""


def open_source(name: str, path: Path | None, options: dict[str, str]) -> Source:
    """Open source `name` on `path` (None: the installed package that carries the data).

    Raises InputError for an unknown source or option, a missing file or column, or data that cannot be read or are
    not the source's; WorkError where the disk fails.
    """
    if name not in SOURCES:
        raise InputError(f"source {name!r}: no such source; {allowed(name, SOURCES)}")
    module = importlib.import_module(f"{__name__}.{name}")
    unknown = [option for option in options if option not in module.OPTIONS]
    if unknown:
        hint = allowed(unknown[0], module.OPTIONS) if module.OPTIONS else "it takes none"
        raise InputError(f"source {name!r}: no option {unknown[0]!r}; {hint}")
    try:
        return module.open_source(path, options)
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None
