"""What a site allows: checked before anything starts."""

from hpc_kit import machine
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources
from hpc_kit.spec.site import Site


def slots(site: Site, resources: Resources) -> int:
    """Return how many tasks run at a time. Raises InputError where not even one fits."""
    cores, gpus = machine.usable_cores(), machine.visible_gpus()
    if resources.gpus_per_rank and not gpus:
        raise InputError(
            "resources.gpus_per_rank is 1 but this machine shows no GPU;"
            " --set resources.gpus_per_rank=0 trains on the CPU"
        )
    if site.slots is None and resources.cpus_per_rank > cores:
        raise InputError(
            f"resources.cpus_per_rank is {resources.cpus_per_rank} but {cores} cores are usable here;"
            f" --set resources.cpus_per_rank={cores} fits"
        )
    by_cores = site.slots or cores // resources.cpus_per_rank
    return min(by_cores, len(gpus)) if resources.gpus_per_rank else by_cores
