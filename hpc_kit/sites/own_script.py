"""A site's Parsl configuration for scripts of one's own: `load_site("delta").parsl_config(resources)`."""

from pathlib import Path
from typing import Any

from hpc_kit.runs.blocks import BlockLog
from hpc_kit.runs.layout import RunDir
from hpc_kit.sites.policy import plan_blocks, problems
from hpc_kit.sites.schedulers import scheduler_of
from hpc_kit.spec import site as spec
from hpc_kit.spec.document import Document
from hpc_kit.spec.errors import InputError
from hpc_kit.spec.job import Resources


class ReadySite:
    """A site, as the file says and the arguments of load_site change it."""

    def __init__(self, site: spec.Site):
        self.site = site

    def parsl_config(self, resources: Resources | dict[str, Any], tasks: int = 1, folder: str | Path = "parsl"):
        """Return a parsl.Config that packs tasks of `resources` (as in a job file), about `tasks` of them.

        Parsl asks for blocks as work comes, and gives idle ones back after two minutes. Its files and the blocks'
        scripts go to `folder`. A task must end within `resources.walltime`: the blocks are made for that. Raises
        InputError where the site's limits are violated.
        """
        from hpc_kit.sites.parsl_config import batch_config, local_config
        from hpc_kit.sites.provider import BatchProvider

        if isinstance(resources, dict):
            resources = Document("resources", resources, {}).check(Resources)
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        scheduler = scheduler_of(self.site, folder)
        if scheduler is None:
            return local_config(self.site, resources, folder)
        plan = plan_blocks(self.site, resources, tasks)
        if wrong := problems(self.site, resources, plan):
            raise InputError("\n".join(wrong))
        log, packed = BlockLog(RunDir(folder)), resources.nodes == 1
        provider = BatchProvider(scheduler, self.site, plan, folder, "hk-own", log, packed)
        return batch_config(self.site, resources, provider, folder, "simple")


def load_site(name: str, account: str | None = None, partition: str | None = None) -> ReadySite:
    """Return the site `name`: a path, one of the user's own, or one that ships. Raises InputError."""
    return ReadySite(spec.load_site(name, account, partition))
