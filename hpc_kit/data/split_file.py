"""Splits by identifier: which graphs train, validate and test, as this package and others write them.

Free of numpy and torch: the login side checks a split with it before anything starts.
Not for: drawing a split (splits.py).
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hpc_kit.data.manifest import Manifest
from hpc_kit.files import expect_ordinary
from hpc_kit.spec.errors import InputError, allowed
from hpc_kit.spec.shipped import user_path
from hpc_kit.spec.split import PARTS, Counts, Folds, Fractions, FromFile, Published, Split

MOST_BYTES = 10**9  # of a split file in an archive, unpacked
Members = dict[str, list[str]]  # part -> ids


def split_sha256(dataset_sha256: str, members: Members) -> str:
    """Return the identity of a split: the data set's, and who is in which part, in any order."""
    content = {"dataset_sha256": dataset_sha256, **{part: sorted(members[part]) for part in PARTS}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_members(members: Any, name: str) -> Members:
    """Return the three parts as lists of ids, in their order. A part may be a list of ids or hold ids -> targets.

    Raises InputError, beginning with `name`, where a part is absent, an id is not text, or an id stands twice.
    """
    if not isinstance(members, dict) or any(not isinstance(members.get(part, []), list | dict) for part in PARTS):
        raise InputError(f"{name}: must hold train, val and test, each a list of ids or ids with targets")
    absent = [part for part in PARTS if part not in members]
    if absent:
        raise InputError(f"{name}: has no {' and no '.join(absent)}; it must hold train, val and test")
    parts = {part: list(members[part]) for part in PARTS}
    home: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    for part, ids in parts.items():
        for id in ids:
            if not isinstance(id, str):
                raise InputError(f"{name}: {part} holds {id!r}; graphs are named by their ids, which are text")
            if id in home:
                twice[id] = (home[id], part)
            home[id] = part
    if twice:
        first, where = next(iter(twice.items()))
        raise InputError(
            f"{name}: ids that stand twice: {len(twice)} ({shown(twice)}; {first} in {' and in '.join(where)});"
            " a graph belongs to one part"
        )
    return parts


def read_split_file(path: Path, dataset_sha256: str) -> tuple[Members, bool]:
    """Read a split of the data set `dataset_sha256`; return its parts and whether it says which set it splits.

    `path` is JSON, or a zip with one JSON file. Raises InputError where it cannot be read, is no split, was
    altered since a run wrote it, or is a split of another data set.
    """
    try:
        expect_ordinary(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = [name for name in archive.namelist() if name.endswith(".json")]
                if len(inside) != 1:
                    raise InputError(f"{path}: holds {len(inside)} JSON files; one is needed")
                if (size := archive.getinfo(inside[0]).file_size) > MOST_BYTES:
                    raise InputError(
                        f"{path}: {inside[0]} unpacks to {size / 1e9:.3g} GB: no file of ids is so large"
                    )
                content = json.loads(archive.read(inside[0]), object_pairs_hook=_once)
        else:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as a split: {error}") from None
    members = check_members(content, str(path))
    stated = content.get("dataset_sha256")
    if stated is not None and stated != dataset_sha256:
        raise InputError(
            f"{path}: is a split of another data set (sha256 {str(stated)[:12]}, this one is {dataset_sha256[:12]})"
        )
    if "sha256" in content and content["sha256"] != split_sha256(dataset_sha256, members):
        raise InputError(f"{path}: its parts do not match its own sha256: it was altered or damaged")
    return members, stated is not None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, of which plain `json.loads` would keep the last of two equal keys."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return content


def resolve_split(split: Split, dataset: Manifest, targets: Sequence[str] = ()) -> Split:
    """Check what can be known of `split` without opening a shard; return it with path and hash of its file filled in.

    `targets` are those that a graph must have to be in a part. Raises InputError where a file or a published split
    is not to be had or cannot be of this data set, where the counts exceed the data set, or where a part that is
    needed stays empty.
    """
    usable = dataset.most_known(targets)
    if isinstance(split, FromFile | Published):
        if isinstance(split, FromFile):
            path = user_path(split.manifest)
            members, _ = read_split_file(path, dataset.sha256)
            sha256 = split_sha256(dataset.sha256, members)
            if split.sha256 not in (None, sha256):
                raise InputError(f"{path}: its sha256 is {sha256}, not the {split.sha256} that is asked for")
            split = FromFile(manifest=str(path), sha256=sha256)
            name = str(path)
        else:
            members = published_split(split.published, dataset.splits)
            name = f"published split {split.published!r}"
        named = sum(len(ids) for ids in members.values())
        if named > dataset.graphs:
            raise InputError(
                f"{name}: names {named} graphs; the data set has {dataset.graphs}: it was made for another version"
                " of it"
            )
        if empty := empty_parts(split, {part: len(ids) for part, ids in members.items()}):
            raise InputError(f"{name}: names no graph of {' and '.join(empty)}")
        return split
    check_sizes(split, usable, dataset.graphs)
    return split


def check_sizes(split: Split, usable: int, graphs: int | None = None) -> None:
    """Raise InputError where a split that is drawn from `usable` graphs asks for more or leaves a needed part empty.

    Of a split in groups nothing is known here but that each needed part takes a graph. `graphs`: how many there are,
    with and without the target; None: `usable`.
    """
    graphs = usable if graphs is None else graphs
    have = f"the data set has {graphs} graphs" + (f", {usable} of them with the target" if usable < graphs else "")
    if isinstance(split, Counts) and (asked := split.train + split.val + split.test) > usable:
        raise InputError(f"train + val + test is {asked}; {have}")
    if getattr(split, "group", None) is None:
        empty = empty_parts(split, part_sizes(split, usable))
    else:
        empty = needed_parts(split)[usable:]
    if empty:
        raise InputError(f"{have}, which leave none to {' and '.join(empty)}")


def needed_parts(split: Split) -> list[str]:
    """Return the parts that must not be empty: train and val, with folds or where its size is written, test."""
    return [part for part in PARTS if part != "test" or isinstance(split, Folds) or getattr(split, "test", 0)]


def empty_parts(split: Split, sizes: dict[str, int]) -> list[str]:
    """Return the needed parts that have no graph."""
    return [part for part in needed_parts(split) if not sizes[part]]


def part_sizes(split: Counts | Fractions | Folds, graphs: int) -> dict[str, int]:
    """Return how many of `graphs` each part takes; of a split in groups, how many places it has."""
    match split:
        case Folds():
            ends = fold_ends(split, graphs)
            test, val = ends[split.fold + 1] - ends[split.fold], share(split.val, graphs)
            return {"train": graphs - test - val, "val": val, "test": test}
        case Counts():
            return {part: getattr(split, part) for part in PARTS}
        case Fractions():
            return {part: share(getattr(split, part), graphs) for part in PARTS}


def fold_ends(split: Folds, graphs: int) -> list[int]:
    """Return [folds + 1]: where each fold begins; sizes differ by one at most."""
    return [fold * graphs // split.folds for fold in range(split.folds + 1)]


def share(fraction: float, graphs: int) -> int:
    """Return a fraction of `graphs`, rounded down; 0.1 of 30 is 3, whatever 0.1 is in binary."""
    return int(graphs * fraction + 1e-9)


def published_split(name: str, splits: dict[str, Members]) -> Members:
    """Return the split `name` of those a data set carries. Raises InputError where it carries none of that name."""
    if not splits:
        raise InputError(f"the data set carries no published split, so none named {name!r}")
    if name not in splits:
        raise InputError(f"the data set carries no split {name!r}; {allowed(name, splits)}")
    return check_members(splits[name], f"published split {name!r}")


def shown(ids: Iterable, most: int = 3) -> str:
    """Return the first few of `ids` for a message."""
    ids = list(ids)
    return ", ".join(map(str, ids[:most])) + (", …" if len(ids) > most else "")
