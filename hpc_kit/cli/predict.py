"""The command that predicts with what was trained."""

from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.spec.errors import InputError


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a task directory or a best.pt.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Files or folders of structures, a CSV file of SMILES, a shard set."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="What to write: .csv, .jsonl, .h5 or .extxyz.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE where it exists.")] = False,
    allow_unseen: Annotated[
        bool, typer.Option("--allow-unseen", help="Predict elements the training never saw too, and mark them.")
    ] = False,
    forces: Annotated[
        bool | None, typer.Option("--forces/--no-forces", help="Forces too [where the model was trained on them].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N [a GPU where there is one].")] = None,
    batch: Annotated[int, typer.Option(help="Structures that are predicted together at most.")] = 128,
    workers: Annotated[int | None, typer.Option(help="Processes that read long inputs [usable cores].")] = None,
    modules: Annotated[
        list[str], typer.Option("--module", metavar="NAME", help="A module of your own that the model may import.")
    ] = [],
) -> None:
    """Predict the properties of structures with a trained model; a run's seeds make an ensemble."""
    from hpc_kit.predict.command import predict_to

    for name, value, least in (("--batch", batch, 1), ("--workers", workers, 0)):
        if value is not None and value < least:
            raise InputError(f"{name}: must be at least {least} (got {value})")
    for line in predict_to(model, inputs, out, force, allow_unseen, forces, device, batch, workers, modules):
        print(line)
