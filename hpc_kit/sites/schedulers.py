"""The scheduler that a site's file names."""

from pathlib import Path

from hpc_kit.sites.cobalt import Cobalt
from hpc_kit.sites.pbs import PBS
from hpc_kit.sites.scheduler import Scheduler
from hpc_kit.sites.slurm import Slurm
from hpc_kit.spec.site import Site


def scheduler_of(site: Site, folder: Path) -> Scheduler | None:
    """Return what speaks with the site's scheduler, None where it has none; `folder` holds the blocks' scripts."""
    if site.scheduler == "cobalt":
        return Cobalt(folder)
    return {"slurm": Slurm, "pbs": PBS}[site.scheduler]() if site.scheduler != "local" else None
