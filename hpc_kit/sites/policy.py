"""What a site allows: checked before anything starts."""

from hpc_kit import machine
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site


def slots(site: Site, resources: Resources) -> int:
    """Return how many tasks run at a time. Raises InputError where not even one fits."""
    cores, gpus = machine.usable_cores(), machine.visible_gpus()
    ranks, cpus = resources.ranks_per_node, resources.cpus_per_rank
    if resources.nodes > 1:
        raise InputError(f"resources.nodes is {resources.nodes} but site {site.name!r} is one machine")
    if resources.gpus_per_rank and not gpus:
        raise InputError(
            "resources.gpus_per_rank is 1 but this machine shows no GPU;"
            " --set resources.gpus_per_rank=0 trains on the CPU"
        )
    if resources.gpus_per_rank and ranks > len(gpus):
        raise InputError(
            f"resources.ranks_per_node is {ranks}, each with a GPU, but this machine shows {len(gpus)};"
            f" --set resources.ranks_per_node={len(gpus)} fits"
        )
    if site.slots is None and ranks * cpus > cores:
        key, fits = ("cpus_per_rank", cores // ranks) if ranks <= cores else ("ranks_per_node", cores // cpus or 1)
        asked = f"resources.cpus_per_rank is {cpus}" + (f" for each of {ranks} ranks" if ranks > 1 else "")
        raise InputError(f"{asked} but {cores} cores are usable here; --set resources.{key}={fits} fits")
    by_cores = site.slots or cores // (ranks * cpus)
    return min(by_cores, len(gpus) // ranks) if resources.gpus_per_rank else by_cores
