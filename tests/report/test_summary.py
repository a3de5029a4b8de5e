"""The summary on a narrow terminal: no unit, name or word of it is cut."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from hpc_kit.cli.options import console
from hpc_kit.report.summary import print_summary

TARGETS = {
    "energy": {"unit": "eV", "test_mae": 0.0123, "baseline_mae": 1.2345},
    "forces": {"unit": "eV/Angstrom", "test_mae": 0.02885, "baseline_mae": 0.98765},
}
MEANS = {
    name: {"unit": errors["unit"], "mean": 0.5, "std": 0.125, "baseline": 0.98765} for name, errors in TARGETS.items()
}
LABEL = "model.interactions=3"


def _shown(width: int) -> str:
    """Return the summary as printed, with the columns' borders and line breaks taken out."""
    row = {"id": "x", "label": f"{LABEL} seed=0", "state": "done", "targets": TARGETS}
    row |= {"epoch_s": 1.23, "data_wait": 0.01, "graphs_per_s": 1234.0, "charge": 0.5}
    seeds = [{"label": LABEL, "n": 2, "targets": MEANS}]
    charge = {"unit": "GPU hours", "used": 1.0, "at_most": 2.0}
    console = Console(file=io.StringIO(), width=width)
    print_summary({"run": "runs/x", "kind": "train", "tasks": [row], "seeds": seeds, "charge": charge}, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_of_a_summary_is_cut(width):
    text = _shown(width)
    assert "…" not in text
    assert text.count("meV/Å") == 4 and "guessing" in text
    mean_row = text.partition("├")[2]
    assert mean_row.count("energy") == 2 and mean_row.count("forces") == 2
    assert all(len(line) <= width for line in text.splitlines())


def test_brackets_and_colons_in_paths_and_labels_stay(capsys):
    table = Table()
    table.add_column("task")
    table.add_row("data.target=[zpve, homo] [/x]")
    out = console()
    out.print("run: /scratch/a[b]/:smile:", table)
    told = capsys.readouterr().out
    assert "/scratch/a[b]/:smile:" in told
    assert "data.target=[zpve, homo] [/x]" in told
