"""Sites, their checks and what a run costs there, as a person reads them."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from hpc_kit.sites.policy import Estimate
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.site import Site, load_site
from hpc_kit.spec.walltime import in_words
from hpc_kit.spec.yaml_text import write_yaml


def print_estimate(estimate: Estimate | None) -> None:
    """Print what a run costs at most, which term decides, and where it costs less."""
    if estimate is None:
        return
    e = estimate
    each = ", ".join(f"{term} {value:.4g}" for term, value in e.terms.items())
    hourly = f"{e.hourly:.4g} {e.unit} an hour"
    print(f"cost: at most {e.total:.4g} {e.unit}: {in_words(e.hours * 3600)} of blocks at {hourly}")
    print(f"  {e.dominant} decides ({each})" if len(e.terms) > 1 else f"  charged by {e.dominant}")
    if e.cheapest:
        print(f"  cheapest that fits: partition {e.cheapest[0]}, {e.cheapest[1]:.4g} {e.unit}")
    if e.preemptible:
        print(f"  preemptible: partition {e.preemptible[0]}, {e.preemptible[1]:.4g} {e.unit}")


def print_sites(files: dict[str, Path], console: Console) -> None:
    """Print one line a site: its scheduler, partitions and where its file is."""
    table = Table("site", "scheduler", "what", "file")
    for name, file in sorted(files.items()):
        try:
            site = load_site(str(file))
            table.add_row(name, site.scheduler, site.description, str(file))
        except InputError as error:
            table.add_row(name, "-", f"cannot be read: {error}", str(file))
    console.print(table)


def print_site(site: Site, console: Console) -> None:
    """Print a site as resolved: its partitions as a table, the rest as YAML."""
    rest = {key: value for key, value in site.model_dump(exclude_defaults=True).items() if key != "partitions"}
    print(write_yaml(rest), end="")
    if site.partitions:
        table = Table()
        for column in ("partition", "cores", "GB", "GPUs", "nodes", "walltime", "factor", "options, notes"):
            table.add_column(column, overflow="fold")
        for name, p in site.partitions.items():
            gpus = f"{p.gpus} {p.gpu or ''}".strip() if p.gpus else "-"
            most = f"{p.min_nodes}-{p.max_nodes or ''}" if (p.min_nodes, p.max_nodes) != (1, 1) else "1"
            marks = ["preemptible"] * p.preemptible + ["whole nodes"] * p.whole_nodes
            more = "; ".join([*marks, *p.options, *([p.note] if p.note else [])])
            row = (str(p.cores), str(p.memory_gb), gpus, most, p.max_walltime, f"{p.factor:g}", more)
            table.add_row(f"{name} *" if name == site.partition else name, *row)
        console.print(table)
        print("* where nothing else is said" if site.partition else "choose one with --partition")
