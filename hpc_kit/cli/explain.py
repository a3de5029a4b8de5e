"""The command that says which atoms carry a prediction."""

from pathlib import Path
from typing import Annotated

import typer

from hpc_kit.spec.errors import InputError


def explain(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a task directory or a best.pt.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Structures: files, folders, a shard set, 'sample'."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write into.")],
    others: Annotated[
        list[Path], typer.Option("--model", metavar="MODEL", help="Another model to explain beside it.")
    ] = [],
    target: Annotated[str | None, typer.Option(help="What to explain [the model's only target].")] = None,
    methods: Annotated[
        list[str], typer.Option("--method", metavar="NAME", help="cam, grad_cam, saliency or positions [cam].")
    ] = [],
    relu: Annotated[bool, typer.Option("--relu", help="Keep only what is positive of cam and grad_cam.")] = False,
    limit: Annotated[int | None, typer.Option(help="So many structures at most.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Compute whether the maps can be trusted.")] = False,
    by: Annotated[str | None, typer.Option(help="Draw by error or by value [value].")] = None,
    count: Annotated[int, typer.Option(help="How many structures are drawn.")] = 12,
    ids: Annotated[list[str], typer.Option("--id", metavar="ID", help="Draw this structure.")] = [],
    png: Annotated[bool, typer.Option("--png", help="Pictures as PNG beside SVG.")] = False,
    precision: Annotated[str, typer.Option(help="fp32 or fp64.")] = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace what is in FOLDER.")] = False,
    allow_unseen: Annotated[
        bool, typer.Option("--allow-unseen", help="Explain elements the training never saw too.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N [a GPU where there is one].")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read long inputs [usable cores].")] = None,
    modules: Annotated[
        list[str], typer.Option("--module", metavar="NAME", help="A module of your own that the model may import.")
    ] = [],
) -> None:
    """Say which atoms carry a trained model's predictions: maps, pictures, a page."""
    from hpc_kit.explain.command import explain_to
    from hpc_kit.report.page import write_sections

    if ids and by:
        raise InputError("--by: the structures drawn are those that --id names; leave one of the two out")
    if workers is not None and workers < 0:
        raise InputError(f"--workers: must be at least 0 (got {workers})")
    gallery = {"by": "identifiers" if ids else by or "value", "identifiers": ids, "count": count}
    lines, section = explain_to(
        out,
        [model, *others],
        inputs,
        force,
        device,
        workers,
        target=target,
        methods=methods or ["cam"],
        relu=relu,
        limit=limit,
        trust={} if trust else None,
        gallery=gallery | {"forms": ["svg", *(["png"] if png else [])]},
        precision=precision,
        allow_unseen=allow_unseen,
        modules=modules,
    )
    write_sections(out / "page.html", out.name, "What the model looks at", [section])
    for line in [*lines, f"{out / 'page.html'}: pictures and numbers"]:
        print(line)
