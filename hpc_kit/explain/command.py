"""What `hpc_kit explain` does: look whether it can, explain, and say what came of it and where it lies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_kit import machine
from hpc_kit.data.rejects import commonest, write_rejects
from hpc_kit.explain.job import Explain, input_of, models_of, told_lines
from hpc_kit.explain.page import section_of
from hpc_kit.files import is_of_disk, write_json
from hpc_kit.spec.errors import InputError, WorkError
from hpc_kit.svg import Section

OUTPUTS = ("parts", "pictures", "metrics.json", "attributions.csv", "structures.csv", "roles.csv", "page.html")


def explain_to(
    folder: Path,
    models: Sequence[Path],
    inputs: Sequence[Path],
    force: bool = False,
    device: str | None = None,
    workers: int | None = None,
    **options: Any,
) -> tuple[list[str], Section]:
    """Explain what `models` predict for `inputs` into `folder`; options: keys of explain.job.Explain. Return what to
    tell, a line a thing, and the section of a page. What needs no torch is looked at first. Raises InputError,
    WorkError."""
    asked = _checked(models=[str(path) for path in models], input=[str(path) for path in inputs], **options)
    whole, target, _, notes = models_of(asked)
    paths, _ = input_of(asked.input)
    asked = asked.model_copy(update={"input": paths})
    _make(folder, force)

    from hpc_kit.explain.study import Study

    machine.keep_freed_memory()
    study = Study(asked, whole, target, folder, device)
    done = study.maps(machine.usable_cores() if workers is None else workers, lambda *_: None)
    metrics = study.finish(done)
    write_json(folder / "metrics.json", metrics)
    rejects = [reject for one in done for reject in one.rejects]
    lines = [*notes, *told_lines(metrics)]
    if rejects:
        write_rejects(folder, rejects)
        lines.append(f"{len(rejects)} not explained: {commonest(r for _, r in rejects)}. rejects.jsonl names them")
    return lines, section_of(folder, metrics)


def _checked(**fields: Any) -> Explain:
    try:
        return Explain(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _make(folder: Path, force: bool) -> None:
    """Make the folder to write into, without what an earlier time has left there. Raises InputError where something
    would be lost: parts alone are what is left of a time that came to no end."""
    there = [folder / name for name in OUTPUTS if (folder / name).exists()]
    if there and there != [folder / "parts"] and not force:
        raise InputError(f"{there[0]}: exists; --force replaces it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in there:
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                file.unlink()
    except OSError as error:
        kind = WorkError if is_of_disk(error) else InputError
        raise kind(f"{error.filename}: cannot be written: {error.strerror}") from None
