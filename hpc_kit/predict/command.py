"""What `hpc_kit predict` does: look whether it can, predict, write, and say what came of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from hpc_kit import machine
from hpc_kit.data.rejects import commonest, write_rejects
from hpc_kit.predict.job import error_lines
from hpc_kit.predict.weights import find_weights
from hpc_kit.spec.errors import InputError


def rejects_of(out: Path) -> Path:
    """Return the file beside `out` that names what could not be predicted."""
    return out.with_name(f"{out.name}.rejects.jsonl")


def predict_to(
    model: Path,
    inputs: Sequence[Path],
    out: Path,
    force: bool = False,
    allow_unseen: bool = False,
    forces: bool | None = None,
    device: str | None = None,
    batch: int = 128,
    workers: int | None = None,
    modules: Sequence[str] = (),
) -> list[str]:
    """Predict what is in `inputs` with `model` and write it to `out`; return what to tell, a line a thing.

    What needs no torch is looked at first. Nothing is written where nothing can be predicted. Raises InputError,
    WorkError.
    """
    check_output(out, force)
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    find_weights(model)

    from hpc_kit.data.sampling import Limits
    from hpc_kit.predict.inputs import open_inputs
    from hpc_kit.predict.output import Errors, kind_of, open_output
    from hpc_kit.predict.predictor import BATCH, Predictor, nothing_left

    kind_of(out)
    predictor = Predictor.load(model, device, modules=modules)
    machine.keep_freed_memory()
    pieces = open_inputs(inputs, predictor.units, predictor.graph)
    errors, rejects, count, unseen = Errors(), [], 0, 0
    if workers is None:
        workers = machine.usable_cores()
    with open_output(out, predictor, pieces.said) as write:
        for found in predictor.each(pieces, forces, allow_unseen, Limits(batch, edges=BATCH.edges), workers):
            if len(found):
                write(found)
                errors.add(found)
            rejects += found.rejects
            count += len(found)
            unseen += sum(map(bool, found.unseen))
        if not count:
            raise nothing_left(rejects)
    listed = rejects_of(out)
    listed.unlink(missing_ok=True)
    several = f"{len(predictor.members)} x " if len(predictor.members) > 1 else ""
    lines = [*predictor.notes, *pieces.notes]
    lines.append(f"{out}: {count} structures, by {several}{predictor.spec.name} of {model} on {predictor.device}")
    lines += error_lines(errors.report(predictor.units))
    if unseen:
        lines.append(f"{unseen} hold elements that the training never saw, and are marked so")
    if rejects:
        write_rejects(listed.parent, rejects, listed.name)
        lines.append(f"{len(rejects)} not predicted: {commonest(r for _, r in rejects)}. {listed} names them")
    return lines


def check_output(out: Path, force: bool) -> None:
    """Raise InputError where `out` exists and may not be replaced, or where its folder cannot be written."""
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file, such as {out / 'predictions.csv'}")
    for path in (out, rejects_of(out)):
        if path.exists() and not force:
            raise InputError(f"{path}: exists; --force replaces it")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to write {out.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written: Permission denied")
