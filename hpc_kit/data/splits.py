"""Which graphs train, validate and test: drawn, or looked up by id, and written down by id.

Everything here is a pure function of its arguments. docs/splits.md states the rules.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_kit.data.groups import Grouping, deal
from hpc_kit.data.split_file import (
    Members,
    check_sizes,
    empty_parts,
    fold_ends,
    part_sizes,
    published_split,
    read_split_file,
    share,
    shown,
    split_sha256,
)
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.split import PARTS, Folds, FromFile, Groups, Published, Split


@dataclass(frozen=True)
class Parts:
    """Indices into the data set of each part, and the manifest that names them by id.

    sha256: identity of the split, see split_sha256. notes: what a user must be told, a line each.
    """

    indices: dict[str, np.ndarray]
    manifest: dict[str, Any]
    sha256: str
    notes: list[str]


def draw(
    split: Split,
    ids: np.ndarray,
    has_target: np.ndarray,
    dataset_sha256: str,
    published: dict[str, Members] | None = None,
    grouping: Grouping | None = None,
) -> Parts:
    """Split a data set of G graphs.

    ids [G] bytes; has_target [G] bool: whether a graph's target is known, graphs without it are in no part;
    published: the splits the data set carries; grouping: as `split.group` asks, see group_graphs.
    Raises InputError where the split does not fit the data set; the message names the key of the job file.
    """
    usable = np.flatnonzero(has_target)
    notes = []
    record: dict[str, Any] = {"dataset_sha256": dataset_sha256, "settings": split.model_dump()}
    if isinstance(split, FromFile | Published):
        if isinstance(split, FromFile):
            name = split.manifest
            members, stated = read_split_file(Path(name), dataset_sha256)
            if split.sha256 not in (None, split_sha256(dataset_sha256, members)):
                raise InputError(f"{name}: has changed since the job was planned; submit the job anew")
            record["file_names_its_data_set"] = stated
            if not stated:
                notes.append(f"split: {name} does not say which data set it splits; its ids are all in this one")
        else:
            name = f"data.split.published: {split.published}"
            members = published_split(split.published, published or {})
        named = _rows(members, ids, name)
        indices = {part: rows[has_target[rows]] for part, rows in named.items()}
        missing = {part: len(named[part]) - len(indices[part]) for part in PARTS}
        total = sum(map(len, named.values()))
    else:
        _check_ids(ids)
        try:
            check_sizes(split, len(usable), len(ids))
        except InputError as error:
            raise InputError(f"data.split: {error}") from None
        indices = _drawn(split, usable, grouping)
        missing = {"any part": len(ids) - len(usable)}
        total = len(ids)
    if sum(missing.values()):
        where = ", ".join(f"{count} of {part}" for part, count in missing.items() if count)
        notes.append(f"split: {sum(missing.values())} of {total} graphs lack the target and are left out ({where})")
    record["left_out_without_target"] = sum(missing.values())
    if grouping is not None and grouping.unparsed:
        notes.append(f"split: rdkit cannot read {grouping.unparsed} SMILES; those graphs are grouped by formula")
        record["grouped_by_formula"] = grouping.unparsed

    if empty := empty_parts(split, {part: len(rows) for part, rows in indices.items()}):
        groups = f" in {len(np.unique(grouping.number[usable]))} groups" if grouping is not None else ""
        raise InputError(
            f"data.split: {len(usable)} graphs that have the target{groups} leave none to {' and '.join(empty)}"
        )
    members = {part: [id.decode() for id in ids[indices[part]]] for part in PARTS}
    sha256 = split_sha256(dataset_sha256, members)
    return Parts(indices, record | members | {"sha256": sha256}, sha256, notes)


def _drawn(split: Split, usable: np.ndarray, grouping: Grouping | None) -> dict[str, np.ndarray]:
    random = np.random.Generator(np.random.PCG64(split.seed))
    sizes = part_sizes(split, len(usable))
    groups = None
    if getattr(split, "group", None):
        if grouping is None:
            raise ValueError(f"a split by {split.group} needs the graphs' groups")
        groups = grouping.number[usable]
    match split:
        case Folds() if groups is not None:
            return _grouped_folds(split, usable, groups, random)
        case Folds():
            order = usable[random.permutation(len(usable))]
            order = np.roll(order, -fold_ends(split, len(usable))[split.fold])
            # The test part comes first, what follows it is next.
            return _cut(order, {part: sizes[part] for part in ("test", "val", "train")})
        case Groups():
            rest = len(usable) - sum(sizes.values())
            whole = split.train + split.val + split.test > 1.0 - 1e-9
            train, *others = sizes.values()
            part = deal(groups, [train + rest, *others] if whole else [train, *others, rest], random)
            return {name: usable[part == i] for i, name in enumerate(PARTS)}
    return _cut(usable[random.permutation(len(usable))], sizes)


def _grouped_folds(
    split: Folds, usable: np.ndarray, groups: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    fold = deal(groups, np.diff(fold_ends(split, len(usable))).tolist(), random)
    rest = np.flatnonzero(fold != split.fold)
    val = share(split.val, len(usable))
    again = np.random.Generator(np.random.PCG64([split.seed, split.fold]))
    in_val = deal(groups[rest], [len(rest) - val, val], again) == 1
    return {"train": usable[rest[~in_val]], "val": usable[rest[in_val]], "test": usable[fold == split.fold]}


def _cut(order: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Cut `order` into consecutive pieces of `sizes`; the last takes what there is, if that is less."""
    ends = np.cumsum([0, *sizes.values()])
    pieces = {part: order[ends[i] : ends[i + 1]] for i, part in enumerate(sizes)}
    return {part: pieces[part] for part in PARTS}


def _check_ids(ids: np.ndarray) -> None:
    names, counts = np.unique(ids, return_counts=True)
    if len(names) < len(ids):
        twice = [name.decode() for name in names[counts > 1]]
        raise InputError(
            f"the data set has ids that stand twice: {len(twice)} ({shown(twice)}); a split needs unique ids"
        )


def _rows(members: Members, ids: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Return the index of every named graph, in the order named."""
    _check_ids(ids)
    row = {id.decode(): i for i, id in enumerate(ids)}
    named = [id for part in PARTS for id in members[part]]
    unknown = [id for id in named if id not in row]
    if unknown:
        raise InputError(
            f"{name}: {len(unknown)} of the {len(named)} graphs it names are not among the data set's {len(ids)}"
            f" ({shown(unknown)}): it was made for another version of the data set"
        )
    return {part: np.array([row[id] for id in members[part]], dtype=np.int64) for part in PARTS}
